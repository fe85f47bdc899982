use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::compiler::{CompileError, compile_all, testing};

/// Stands in for a vendor: the binary is a function of the text.
struct Echo {
    fingerprint: &'static str,
    options: &'static [&'static str],
}

const ECHO: Echo = Echo {
    fingerprint: "echo 1.0",
    options: &["-O3"],
};

impl Compiler for Echo {
    fn name(&self) -> &str {
        "echo"
    }
    fn fingerprint(&self) -> &str {
        self.fingerprint
    }
    fn options(&self, architecture: &str) -> Vec<String> {
        self.options
            .iter()
            .map(ToString::to_string)
            .chain([architecture.to_string()])
            .collect()
    }
    fn build(&self, generated: &Generated, architecture: &str) -> Result<Compiled, Box<CompileError>> {
        Ok(Compiled {
            binary: format!("{architecture}\n{}", generated.text).into_bytes(),
            resources: Resources {
                registers: 31,
                shared_bytes: 70_000,
                spills: 1,
                scratch_bytes: 8,
            },
            log: "it went well: é".to_string(),
            time: Duration::from_millis(3),
            from_cache: false,
        })
    }
}

fn source(at: usize) -> Generated {
    testing::generated(&format!("k{at}.cu"), "sm_90", &format!("text of kernel {at}\n"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    files(folder).into_iter().map(|entry| entry.path).collect()
}

#[test]
fn an_entry_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = Cache::at(&folder.path().join("made/when/needed"));
    let key = Key::new(&ECHO, &source(1), "sm_90");
    assert!(cache.get(&key).is_none());
    let compiled = ECHO.build(&source(1), "sm_90").expect("it always works");
    cache.put(&key, &compiled);
    let found = cache.get(&key).expect("just written");
    assert!(found.from_cache);
    assert_eq!(
        (found.binary, found.log, found.resources),
        (compiled.binary, compiled.log, compiled.resources)
    );
}

#[test]
fn everything_that_matters_is_in_the_key() {
    let base = Key::new(&ECHO, &source(1), "sm_90");
    let changed = |change: fn(&mut Generated)| {
        let mut generated = source(1);
        change(&mut generated);
        Key::new(&ECHO, &generated, "sm_90")
    };
    let others = [
        changed(|generated| generated.text.push('\n')),
        changed(|generated| generated.symbol.push('x')),
        changed(|generated| generated.dynamic_shared_bytes = 16),
        Key::new(&ECHO, &source(1), "sm_80"),
        Key::new(
            &Echo {
                fingerprint: "echo 1.1",
                ..ECHO
            },
            &source(1),
            "sm_90",
        ),
        Key::new(
            &Echo {
                options: &["-O", "3"],
                ..ECHO
            },
            &source(1),
            "sm_90",
        ),
        Key::new(&Echo { options: &[], ..ECHO }, &source(1), "sm_90"),
    ];
    for (at, other) in others.iter().enumerate() {
        assert_ne!(base, *other, "change {at}");
    }
    assert_eq!(base, Key::new(&ECHO, &source(1), "sm_90"));
}

#[test]
fn damage_is_a_miss_and_heals() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = Cache::at(folder.path());
    let key = Key::new(&ECHO, &source(1), "sm_90");
    let path = cache.path(&key);
    let compiled = ECHO.build(&source(1), "sm_90").expect("it always works");
    let whole = encode(&compiled);
    let mut random = StdRng::seed_from_u64(5);
    for round in 0..200 {
        let mut damaged = whole.clone();
        if round % 2 == 0 {
            damaged.truncate(random.random_range(0..whole.len()));
        } else {
            let at = random.random_range(0..whole.len());
            damaged[at] ^= 1 << random.random_range(0..8);
        }
        fs::write(&path, &damaged).expect("written");
        assert!(cache.get(&key).is_none(), "round {round}");
        assert!(!path.exists(), "a damaged entry is removed");
    }
    let mut noise = vec![0u8; 300];
    random.fill_bytes(&mut noise);
    fs::write(&path, &noise).expect("written");
    let again = compile_all(&ECHO, Some(&cache), &[source(1)], None);
    assert_eq!(again[0].as_ref().expect("it always works").binary, compiled.binary);
    assert!(cache.get(&key).is_some(), "written anew");
}

#[test]
fn a_folder_that_cannot_be_written_costs_only_time() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let occupied = folder.path().join("occupied");
    fs::write(&occupied, "a file").expect("written");
    for place in [
        occupied.clone(),
        occupied.join("below"),
        PathBuf::from("/proc/no/such/place"),
    ] {
        let cache = Cache::at(&place);
        for _ in 0..2 {
            let results = compile_all(&ECHO, Some(&cache), &[source(1), source(2)], None);
            assert!(
                results
                    .iter()
                    .all(|result| !result.as_ref().expect("it always works").from_cache)
            );
        }
    }
    assert_eq!(fs::read_to_string(&occupied).expect("untouched"), "a file");
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let size = encode(&ECHO.build(&source(1), "sm_90").expect("it always works")).len() as u64;
    // Room for eight and a half entries; the ninth leaves six.
    let cache = Cache::with_limit(folder.path(), size * 8 + size / 2);
    let old = SystemTime::now() - Duration::from_secs(1000);
    for at in 1..=8 {
        let key = Key::new(&ECHO, &source(at), "sm_90");
        cache.put(&key, &ECHO.build(&source(at), "sm_90").expect("it always works"));
        let file = fs::File::options()
            .append(true)
            .open(cache.path(&key))
            .expect("written");
        file.set_modified(old + Duration::from_secs(at as u64))
            .expect("own file");
    }
    let first = Key::new(&ECHO, &source(1), "sm_90");
    assert!(cache.get(&first).is_some(), "a use makes it young");
    let abandoned = folder.path().join("left.tmp");
    fs::write(&abandoned, "x").expect("written");
    let file = fs::File::options().append(true).open(&abandoned).expect("written");
    file.set_modified(SystemTime::now() - 2 * ABANDONED).expect("own file");

    let key = Key::new(&ECHO, &source(9), "sm_90");
    cache.put(&key, &ECHO.build(&source(9), "sm_90").expect("it always works"));
    assert!(cache.get(&first).is_some() && cache.get(&key).is_some());
    assert!(cache.get(&Key::new(&ECHO, &source(2), "sm_90")).is_none());
    assert!(!abandoned.exists());
    assert_eq!(entries(folder.path()).len(), 6);
}

#[test]
fn many_threads_and_two_caches_on_one_folder() {
    let folder = tempfile::tempdir().expect("temporary folder");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = Cache::at(folder.path());
                for round in 0..40 {
                    let at = round % 5;
                    let result = compile_all(&ECHO, Some(&cache), &[source(at)], None);
                    let compiled = result[0].as_ref().expect("it always works");
                    assert_eq!(compiled.binary, format!("sm_90\ntext of kernel {at}\n").into_bytes());
                }
            });
        }
    });
    assert_eq!(entries(folder.path()).len(), 5, "no temporary file is left");
}
