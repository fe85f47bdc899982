//! Measured divisions of products: from `tilekiln tune` to the plans that use them, on the CPU.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use support::{Run, refused, run_with};
use tilekiln::gguf::File;
use tilekiln::kv::{Geometry, KvType, KvTypes};
use tilekiln::model::{
    Chip, Design, Divisions, LoadOptions, Phase, Precision, Row, Target, Tuned, TunedTile, Tuning, Want, column_tiles,
};
use tilekiln::plan::{Count, Product};
use tilekiln::synth::{Config, Files, Model, Options};
use tilekiln::tune::{Entry, FORMAT, Owner, TuningFile, read};
use tilekiln_dsl::target as dsl;
use tilekiln_runtime::device::{Device, Properties};
use tilekiln_runtime::host::HostDevice;

fn load_options(max_rows: usize) -> LoadOptions {
    LoadOptions {
        precision: Precision::Fast,
        kv: KvTypes::uniform(KvType::F16),
        geometry: Geometry {
            slots: 3,
            context: 64,
            max_rows,
            run: 1,
        },
        outputs: 8,
    }
}

fn model(config: &str) -> Model {
    Model::new(Config::named(config).unwrap(), Options::default()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Products of a design with the numbers of their launches: warps, slots, blocks by column tiles, and whether measured.
type Launched = BTreeMap<Product, BTreeMap<usize, ([usize; 3], bool)>>;

fn launched(design: &Design, target: &dsl::Target) -> Launched {
    let mut found = Launched::new();
    let mut recorded = BTreeSet::new();
    for plan in design.all().0 {
        for stage in &plan.stages {
            let Some(divided) = &stage.divided else { continue };
            let spec = &plan.kernels[stage.kernel];
            let number = |key: &str| -> usize {
                let setting = spec.settings.iter().find_map(|setting| setting.strip_prefix(key));
                setting.unwrap_or_else(|| panic!("{spec}: no {key}")).parse().unwrap()
            };
            // products of one row are divided as those of one column tile
            let columns = number("columns=");
            assert_eq!(columns.max(1), divided.columns, "{spec}");
            let is_lone = stage.cost.rows_per_read == 1 && divided.product.kernel != "packed_halves";
            assert_eq!(columns == 0, is_lone, "{spec}");
            let Count::Fixed(blocks) = stage.grid[0] else {
                panic!("{}: {:?}", stage.label, stage.grid)
            };
            let numbers = ([number("warps="), number("slots="), blocks as usize], divided.tuned);
            let tiles = found.entry(divided.product.clone()).or_default();
            let known = tiles.insert(divided.columns, numbers);
            if let Some(known) = known {
                assert_eq!(known, numbers, "{}: one product is divided in two ways", stage.label);
            }
            if recorded.insert(spec.to_string())
                && let Err(error) = spec.record(target)
            {
                panic!("{spec} does not fit: {error}");
            }
        }
    }
    found
}

/// Divisions unlike those by rule: a warp less where there are several, other slots, few blocks.
fn made_up(launched: &Launched) -> Vec<(Product, Tuned)> {
    let tuned = launched.iter().map(|(product, tiles)| {
        let tile = |(columns, ([_, slots, blocks], _)): (&usize, &([usize; 3], bool))| TunedTile {
            columns: *columns,
            slots: if *slots == 2 { 1 } else { *slots },
            blocks: (*blocks).min(2 + columns),
        };
        let warps = tiles.values().map(|([warps, ..], _)| *warps).max().unwrap();
        let tuned = Tuned {
            warps: (warps - 1).max(1),
            tiles: tiles.iter().map(tile).collect(),
        };
        (product.clone(), tuned)
    });
    tuned.collect()
}

/// With a made-up tuning every launch is divided as it says; warps are those of the product whatever the column tiles; and
/// what it does not have follows the rule.
#[test]
fn plans_use_a_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let files = model("e4b").outline(folder.path()).unwrap();
    let [file, assistant] = [&files.target, &files.assistant].map(|path| File::open(path).unwrap());
    for name in ["sm_90", "gfx1150"] {
        let target = dsl::Target::named(name).unwrap();
        let chip = Chip::new(target, 40);
        let design = |tuning: Option<&Tuning>| {
            Design::read(&file, Some(&assistant), load_options(32), chip.tuned(tuning)).unwrap()
        };
        let by_rule = launched(&design(None), target);
        assert!(by_rule.len() > 12, "{name}: {} products", by_rule.len());
        let kernels: BTreeSet<&str> = by_rule.keys().map(|product| product.kernel.as_str()).collect();
        let all = [
            "packed_gate",
            "packed_gated",
            "packed_halves",
            "packed_pair",
            "packed_product",
        ];
        assert_eq!(kernels.into_iter().collect::<Vec<_>>(), all, "{name}");

        let mut wanted = made_up(&by_rule);
        let left_out = wanted.pop().unwrap().0;
        let tuning = Tuning::new(target, wanted.clone()).unwrap();
        let planned = design(Some(&tuning));
        let tuned = launched(&planned, target);
        assert_eq!(tuned[&left_out], by_rule[&left_out], "{name}");
        let mut differ = 0;
        for (product, wanted) in wanted {
            let columns: Vec<usize> = tuned[&product].keys().copied().collect();
            assert_eq!(columns, column_tiles(target).collect::<Vec<_>>(), "{name} {product}");
            for tile in &wanted.tiles {
                let (numbers, is_tuned) = tuned[&product][&tile.columns];
                assert_eq!(numbers, [wanted.warps, tile.slots, tile.blocks], "{name} {product}");
                assert!(is_tuned);
                differ += usize::from(numbers != by_rule[&product][&tile.columns].0);
            }
        }
        assert!(differ > 20, "{name}: {differ} launches differ from the rule");
        let divisions = Divisions::of(planned.all().0);
        assert_eq!(
            (divisions.products, divisions.tuned),
            (by_rule.len(), by_rule.len() - 1)
        );
    }
}

/// Logits of a sequence in steps of `chunk` rows.
fn logits(target: &mut Target, slot: u32, tokens: &[u32], chunk: usize) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    for (index, some) in tokens.chunks(chunk).enumerate() {
        let row = |(place, token): (usize, &u32)| Row {
            token: *token,
            slot,
            position: (index * chunk + place) as u32,
            want: Want::Logits,
        };
        let rows: Vec<Row> = some.iter().enumerate().map(row).collect();
        let outputs = target.forward(&rows, Phase::Prompt).unwrap();
        let bits = outputs.into_iter().map(|output| {
            let logits = output.logits.unwrap();
            logits.into_iter().map(f32::to_bits).collect()
        });
        all.extend(bits.collect::<Vec<Vec<u32>>>());
    }
    all
}

/// With a tuning as without, a row's bits do not depend on how many others are in its step.
#[test]
fn rows_do_not_depend_on_the_step_with_a_tuning() {
    let folder = tempfile::tempdir().unwrap();
    let files = model("tiny").write(folder.path(), &|_| ()).unwrap();
    let file = File::open(&files.target).unwrap();
    let device: Arc<dyn Device> = Arc::new(HostDevice::new());
    let target = device.properties().target.clone();
    let chip = Chip::of(device.properties());
    let by_rule = launched(&Design::read(&file, None, load_options(32), chip).unwrap(), &target);
    let tuning = Tuning::new(&target, made_up(&by_rule)).unwrap();
    let on = (device.clone(), Some(&tuning));
    let mut model = Target::load_tuned(&file, None, on, load_options(32), &mut |_| ()).unwrap();
    let divisions = model.divisions();
    assert_eq!(divisions.tuned, divisions.products);
    assert!(divisions.tuned > 5, "{divisions}");
    let tokens: Vec<u32> = (0..17).map(|index| (index * 977 + 300) % 2048).collect();
    // four column tiles, two, one
    let together = logits(&mut model, 0, &tokens, 17);
    for (slot, chunk) in [(1, 9), (2, 3)] {
        let apart = logits(&mut model, slot, &tokens, chunk);
        assert!(together == apart, "steps of 17 rows and of {chunk} differ");
    }
}

/// A model and a cache folder of its own.
struct Home {
    folder: tempfile::TempDir,
    files: Files,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = model("tiny").write(folder.path(), &|_| ()).unwrap();
        Self { folder, files }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command on the model, on the CPU, with this cache folder.
    fn run(&self, line: &str) -> Run {
        let mut arguments: Vec<&str> = line.split_whitespace().collect();
        arguments.extend(["-m", text(&self.files.target), "--device", "host"]);
        let cache = self.path("cache");
        run_with(&arguments, &[("TILEKILN_CACHE_DIR", cache.as_os_str())])
    }
}

/// Everything of a file as it was measured, each product divided otherwise: on the CPU it is chance what is faster.
fn divided_otherwise(report: &Value, file: &TuningFile, properties: &Properties) -> TuningFile {
    let found = report["products"].as_array().unwrap();
    let entries = found.iter().map(|found| {
        let mut entry: Entry = serde_json::from_value(found.clone()).unwrap();
        entry.warps = (entry.warps - 1).max(1);
        for tile in &mut entry.tiles {
            tile.blocks = 1;
        }
        entry
    });
    let mut changed = file.clone();
    changed.replace(&[], entries.collect(), &properties.target);
    changed
}

/// From tuning to what uses it.
#[test]
fn from_tuning_to_use() {
    let home = Home::new();
    let run = home.run("tune --quick -r 1 --json").ended(0);
    let report = run.json();
    assert!(
        run.stderr.contains("the host device interprets kernels"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("tune: "), "{}", run.stderr);
    let path = PathBuf::from(report["file"].as_str().unwrap());
    assert!(
        path.starts_with(home.path("cache").join("tuning")),
        "{}",
        path.display()
    );
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let products = report["products"].as_array().unwrap();
    assert!(products.len() > 5, "{report}");
    for product in products {
        for tile in product["tiles"].as_array().unwrap() {
            let number = |key: &str| tile[key].as_f64().unwrap();
            assert!(number("us") > 0.0 && number("us") <= number("default_us"), "{product}");
        }
    }

    let device = HostDevice::new();
    let file = TuningFile::read(&path).unwrap();
    file.check(&path, &Owner::device(device.properties())).unwrap();
    let better = products.iter().filter(|product| product["better"] == true).count();
    assert_eq!(
        (file.products.len(), report["products_in_file"].as_u64()),
        (better, Some(better as u64))
    );

    let by_rule = home.run("run -p hello -n 5 --ids --temp 0 --tuning none").ended(0);
    let changed = divided_otherwise(&report, &file, device.properties());
    std::fs::write(&path, serde_json::to_string(&changed).unwrap()).unwrap();
    let tuned = home.run("run -p hello -n 5 --ids --temp 0").ended(0);
    assert_eq!(
        tuned.stdout.split_whitespace().count(),
        by_rule.stdout.split_whitespace().count(),
        "{} and {}",
        tuned.stdout,
        by_rule.stdout
    );

    let plan = home.run("plan --measure -r 1 -q").ended(0);
    let line = format!("as measured, in {}; none by rule", path.display());
    assert!(plan.stdout.contains(&line), "{}", plan.stdout);
    let plan = home.run("plan --measure -r 1 -q --json").ended(0).json();
    assert_eq!(plan["tuning"].as_str(), Some(text(&path)));
    let groups = plan["groups"].as_array().unwrap();
    let divisions: BTreeSet<Option<&str>> = groups.iter().map(|group| group["division"].as_str()).collect();
    assert_eq!(divisions, BTreeSet::from([None, Some("tuned")]));
    let by_rule = home.run("plan --measure -r 1 -q --tuning none").ended(0);
    assert!(
        by_rule.stdout.contains("divisions of products: by rule\n"),
        "{}",
        by_rule.stdout
    );

    let bench = home.run("bench -p 2 -n 0 -r 1 -q --json").ended(0).json();
    let said = bench["tuning"].as_str().unwrap();
    assert!(said.ends_with("products divided as measured"), "{said}");

    // the same in a file that is named, with an empty cache folder
    let shipped = home.path("shipped.json");
    std::fs::rename(&path, &shipped).unwrap();
    let line = format!("plan --measure -r 1 -q --tuning {}", shipped.display());
    let named = home.run(&line).ended(0);
    assert!(named.stdout.contains(text(&shipped)), "{}", named.stdout);
}

/// What is kept in the cache folder and cannot be used is said, and left as it is; when it is named it is an error.
#[test]
fn what_is_cached_never_keeps_a_model_from_running() {
    let home = Home::new();
    let device = HostDevice::new();
    let name: String = device.properties().name.replace([' ', ','], "-").replace("--", "-");
    let path = home.path("cache").join("tuning").join(format!("{name}.json"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let whole = TuningFile::new(device.properties());
    let other_units = TuningFile {
        units: whole.units + 1,
        ..whole.clone()
    };
    let older = TuningFile {
        kernels: BTreeMap::from([("packed_product weight=q4_k".to_owned(), "0123".to_owned())]),
        ..whole.clone()
    };
    let of = |file: &TuningFile| serde_json::to_string(file).unwrap();
    for (contents, reason, stays) in [
        (
            String::from("{\"format\": \"tilek"),
            "is no tuning of `tilekiln tune`: it is no JSON",
            true,
        ),
        (of(&other_units), "was measured on", true),
        (
            of(&older),
            "other kernels than this version's (packed_product weight=q4_k)",
            false,
        ),
        (
            of(&whole).replace(FORMAT, "tilekiln tuning 7"),
            "the format `tilekiln tuning 7`",
            true,
        ),
    ] {
        std::fs::write(&path, &contents).unwrap();
        let cached = home.run("plan --measure -r 1 -q").ended(0);
        assert!(cached.stderr.contains(reason), "{}", cached.stderr);
        assert!(cached.stderr.contains(text(&path)), "{}", cached.stderr);
        assert!(
            cached.stderr.contains("tilekiln tune"),
            "the way out: {}",
            cached.stderr
        );
        assert!(
            cached.stdout.contains("divisions of products: by rule\n"),
            "{}",
            cached.stdout
        );
        let named = home.run(&format!("run -n 1 -p a --tuning {}", path.display())).ended(1);
        assert!(named.stderr.contains(reason), "{}", named.stderr);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        if stays {
            let tune = home.run("tune --quick -r 1 -q").ended(1);
            assert!(
                tune.stderr.contains(reason) && tune.stderr.contains("--out"),
                "{}",
                tune.stderr
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        }
    }
}

/// Contents of a file for an H100, and what is said of it when it is named for `plan`.
#[test]
fn files_that_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuning.json");
    let target = dsl::Target::named("sm_90").unwrap();
    let properties = Properties {
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        target: target.clone(),
        units: 132,
        memory_bytes: 0,
        unified_memory: false,
    };
    let mut whole = TuningFile::new(&properties);
    let tiles = [1, 2, 4].map(|columns| {
        json!({
            "columns": columns, "rows": columns, "slots": 1, "blocks": 40, "us": 1.5,
            "default_slots": 2, "default_blocks": 80, "default_us": 2.0,
        })
    });
    let entry = json!({
        "kernel": "packed_product", "settings": ["weight=q4_k"], "rows": [2560], "cols": 10240, "groups_of_unit": 1,
        "stages": ["ffn_down"], "warps": 8, "default_warps": 8, "tiles": tiles,
    });
    whole.replace(&[], vec![serde_json::from_value(entry).unwrap()], target);
    let whole = serde_json::to_value(whole).unwrap();
    let write = |value: &Value| std::fs::write(&path, value.to_string()).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut changed = whole.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };

    write(&whole);
    let owner = Owner::device(&properties);
    assert_eq!(read(&path, &owner).unwrap().tuning.len(), 1);
    let plan = format!("plan --target sm_90 --tuning {}", path.display());
    let run = Run::new(&plan.split(' ').collect::<Vec<_>>()).ended(0);
    assert!(run.stdout.contains("has none of them"), "{}", run.stdout);

    for (value, reason) in [
        (json!([1]), "it does not say its format"),
        (json!({"format": 3}), "it does not say its format"),
        (
            json!({"format": "tilekiln bench 1"}),
            "its format is `tilekiln bench 1`",
        ),
        (json!({"format": FORMAT}), "missing field"),
        (
            with("/format", json!("tilekiln tuning 2")),
            "has the format `tilekiln tuning 2`",
        ),
        (
            with("/device", json!("NVIDIA A100")),
            "was measured on NVIDIA A100 (sm_90, 132 units)",
        ),
        (with("/target", json!("sm_80")), "(sm_80, 132 units)"),
        (with("/units", json!(66)), "66 units"),
        (
            with("/kernels", json!({})),
            "other kernels than this version's (packed_product weight=q4_k)",
        ),
        (with("/products/0/warps", json!(64)), "64 warps; there can be 1 to 32"),
        (with("/products/0/warps", json!(-1)), "invalid value"),
        (
            with("/products/0/tiles/1/columns", json!(3)),
            "for [1, 3, 4] column tiles",
        ),
        (
            with("/products/0/tiles/1/blocks", json!(81)),
            "81 blocks; there can be 1 to 80",
        ),
        (
            with("/products/0/tiles/2/slots", json!(9)),
            "bytes of shared memory; sm_90 has",
        ),
        (with("/products/0/rows", json!([u64::MAX])), "no matrix has a side of"),
    ] {
        write(&value);
        let error = read(&path, &owner).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains(text(&path)) && error.contains("tune"), "{error}");
    }

    write(&whole);
    refused(
        &format!("plan --target gfx1150 --tuning {}", path.display()),
        1,
        &["was measured on", "890M"],
    );
    refused(
        &format!("plan --measure --device host --tuning {}", path.display()),
        1,
        &["was measured on", "host CPU"],
    );
    write(&json!(null));
    refused(
        &format!("serve --device host --tuning {}", path.display()),
        1,
        &["is no tuning"],
    );
}

#[test]
fn lines_that_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = text(folder.path());
    for (line, code, named) in [
        ("tune --device metal", 2, vec!["metal", "host, cuda, hip, auto"]),
        ("tune --config e5", 2, vec!["e5", "e4b"]),
        ("tune --config tiny -m x.gguf", 2, vec!["--config", "--model"]),
        ("tune --mtp-head x.gguf", 2, vec!["--model"]),
        ("tune --device host -r 0", 2, vec!["-r 0", "1 to 1000"]),
        (
            "tune --device host -m nowhere.gguf --out x.json",
            1,
            vec!["nowhere.gguf"],
        ),
        (
            &format!("tune --device host --out {folder}"),
            1,
            vec![folder, "nothing is measured"],
        ),
        ("plan --tuning nowhere.json", 1, vec!["nowhere.json"]),
        (
            "run -n 1 -p a --device host --tuning nowhere.json",
            1,
            vec!["nowhere.json"],
        ),
        ("bench --device host --tuning nowhere.json", 1, vec!["nowhere.json"]),
        ("plan --tuning", 2, vec!["--tuning"]),
    ] {
        refused(line, code, &named);
    }
    assert!(!Path::new("x.json").exists() && !Path::new("x.json.part").exists());
    let nothing = OsStr::new("");
    let places = ["TILEKILN_CACHE_DIR", "XDG_CACHE_HOME", "HOME"].map(|variable| (variable, nothing));
    let run = run_with(&["tune", "--device", "host", "--config", "tiny"], &places).ended(1);
    assert!(run.stderr.contains("--out FILE"), "{}", run.stderr);
}
