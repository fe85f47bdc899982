//! What every kernel costs, held in a table: `tests/compile-ratchet.csv`.
//!
//! Costs change when somebody means them to. A change for the worse fails, and one for the better does too, so that
//! the table stays true and the next change for the worse is seen. `TILEKILN_BLESS=1` writes what was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const HEADER: &str = "compiler,target,kernel,registers,shared_bytes,spills,scratch_bytes";
const BLESS: &str = "TILEKILN_BLESS";

/// One kernel, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Compiler and the part of its version that allocates: `NVRTC 13.0`.
    pub compiler: String,
    /// The target.
    pub target: String,
    /// The kernel's symbol.
    pub kernel: String,
    /// Registers per thread.
    pub registers: u32,
    /// Static and dynamic shared memory per block.
    pub shared_bytes: u32,
    /// Bytes (NVIDIA) or registers (AMD) spilled.
    pub spills: u32,
    /// Bytes of scratch per thread.
    pub scratch_bytes: u32,
}

impl Cost {
    /// For messages: `sm_90 argmax_t256`.
    pub fn name(&self) -> String {
        format!("{} {}", self.target, self.kernel)
    }

    fn key(&self) -> (String, String, String) {
        (self.compiler.clone(), self.target.clone(), self.kernel.clone())
    }

    fn numbers(&self) -> [(&'static str, u32); 4] {
        [
            ("registers", self.registers),
            ("shared bytes", self.shared_bytes),
            ("spills", self.spills),
            ("scratch bytes", self.scratch_bytes),
        ]
    }
}

type Table = BTreeMap<(String, String, String), Cost>;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compile-ratchet.csv")
}

fn parse(text: &str) -> Result<Table, String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(format!("the first line is not `{HEADER}`"));
    }
    let mut table = Table::new();
    let mut before = None;
    for (number, line) in lines.enumerate().map(|(at, line)| (at + 2, line)) {
        let wrong = |what: &str| format!("line {number} {what}: {line}");
        let fields: Vec<&str> = line.split(',').collect();
        let [compiler, target, kernel, numbers @ ..] = fields.as_slice() else {
            return Err(wrong("is no row"));
        };
        let numbers: Result<Vec<u32>, _> = numbers.iter().map(|field| field.parse()).collect();
        let Ok([registers, shared_bytes, spills, scratch_bytes]) = numbers.as_deref() else {
            return Err(wrong("has no four numbers"));
        };
        let cost = Cost {
            compiler: compiler.to_string(),
            target: target.to_string(),
            kernel: kernel.to_string(),
            registers: *registers,
            shared_bytes: *shared_bytes,
            spills: *spills,
            scratch_bytes: *scratch_bytes,
        };
        if before.as_ref() >= Some(&cost.key()) {
            return Err(wrong("is out of order"));
        }
        before = Some(cost.key());
        table.insert(cost.key(), cost);
    }
    Ok(table)
}

fn print(table: &Table) -> String {
    let mut text = format!("{HEADER}\n");
    for cost in table.values() {
        let _ = write!(text, "{},{},{}", cost.compiler, cost.target, cost.kernel);
        for (_, number) in cost.numbers() {
            let _ = write!(text, ",{number}");
        }
        text.push('\n');
    }
    text
}

/// Everything in which `measured` is not what the table says of that compiler.
///
/// A compiler of which the table has no rows allocates in its own way: that is said on stderr and is no difference.
pub fn compare(compiler: &str, measured: Vec<Cost>) -> Vec<String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let measured: Table = measured.into_iter().map(|cost| (cost.key(), cost)).collect();
    let text = std::fs::read_to_string(path()).unwrap_or_else(|_| format!("{HEADER}\n"));
    let blessing = std::env::var(BLESS).is_ok_and(|value| value == "1");
    let table = match parse(&text) {
        Ok(table) => table,
        Err(reason) => return vec![format!("{}: {reason}", path().display())],
    };
    if blessing {
        let mut table = table;
        table.retain(|(known, ..), _| known != compiler);
        table.extend(measured);
        return match std::fs::write(path(), print(&table)) {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{}: {error}", path().display())],
        };
    }
    if !table.keys().any(|(known, ..)| known == compiler) {
        let mut known: Vec<&str> = table.keys().map(|(known, ..)| known.as_str()).collect();
        known.dedup();
        eprintln!(
            "skipped: costs are not compared, the table has {}, this is {compiler}",
            known.join(", ")
        );
        return Vec::new();
    }
    differences(compiler, &table, &measured)
}

fn differences(compiler: &str, table: &Table, measured: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, cost) in measured {
        let Some(known) = table.get(key) else {
            found.push(format!("{}: not in the table", cost.name()));
            continue;
        };
        for ((what, now), (_, before)) in cost.numbers().into_iter().zip(known.numbers()) {
            let verdict = match now.cmp(&before) {
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => "worse",
                std::cmp::Ordering::Less => "better",
            };
            found.push(format!("{}: {what} {before} -> {now}, {verdict}", cost.name()));
        }
    }
    for (key, cost) in table {
        if key.0 == compiler && !measured.contains_key(key) {
            found.push(format!("{}: in the table, and no such kernel is compiled", cost.name()));
        }
    }
    if !found.is_empty() {
        found.push(format!(
            "where this is meant, write the table with {BLESS}=1 cargo test -p tilekiln-tests --test compile, and say why in \
             the commit"
        ));
    }
    found
}

#[test]
fn any_difference_is_named() {
    let row = |kernel: &str, registers| Cost {
        compiler: "cc 1".into(),
        target: "sm_1".into(),
        kernel: kernel.into(),
        registers,
        shared_bytes: 16,
        spills: 0,
        scratch_bytes: 0,
    };
    let table = |rows: &[Cost]| -> Table { rows.iter().map(|cost| (cost.key(), cost.clone())).collect() };
    let known = table(&[row("a", 8), row("b", 9), row("gone", 1)]);
    let same = differences("cc 1", &known, &known);
    assert_eq!(same, Vec::<String>::new());
    let other = differences("cc 2", &known, &Table::new());
    assert_eq!(other, Vec::<String>::new(), "rows of another compiler are not missed");
    let found = differences("cc 1", &known, &table(&[row("a", 9), row("b", 8), row("new", 1)]));
    let expected = [
        "sm_1 a: registers 8 -> 9, worse",
        "sm_1 b: registers 9 -> 8, better",
        "sm_1 new: not in the table",
        "sm_1 gone: in the table, and no such kernel is compiled",
    ];
    assert_eq!(found[..4], expected);
    assert!(found[4].contains("TILEKILN_BLESS=1"), "{found:?}");

    assert_eq!(parse(&print(&known)), Ok(known));
    for wrong in [
        "",
        "compiler,kernel\n",
        &format!("{HEADER}\na,b,c,1,2,3\n"),
        &format!("{HEADER}\nb,b,b,1,2,3,4\na,b,b,1,2,3,4\n"),
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
