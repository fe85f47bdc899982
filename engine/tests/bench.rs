//! `tilekiln bench` and `tilekiln plan` as programs, on the demo model and the host device.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use support::{Run, refused};
use tempfile::TempDir;
use tilekiln::gguf::File;
use tilekiln::model::config::TargetConfig;
use tilekiln::plan::cards::Card;
use tilekiln_dsl::target::TARGETS;
use tilekiln_kernels::matmul::weights::WEIGHTS;

/// A model on disk, and results of a run on it.
struct Fixture {
    folder: TempDir,
    results: Value,
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn model(&self) -> PathBuf {
        self.path("tiny.gguf")
    }

    fn file(&self) -> File {
        File::open(&self.model()).expect("a model")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

/// One run of everything, for all tests.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Run::new(&["synth", "--config", "tiny", "--out", text(folder.path())]).ended(0);
        let (model, plot) = (folder.path().join("tiny.gguf"), folder.path().join("plot.svg"));
        let line = "bench --device host -p 6 -n 2 -pg 4,1 -d 0,9 -ctk f16,f32 -ctv f16,f32 -npl 1,2 --rows 3 -ub 4 -r 2 -q -o json";
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend(["-m", text(&model), "--plot", text(&plot)]);
        let run = Run::new(&arguments).ended(0);
        let left_out: Vec<&str> = run.stderr.lines().collect();
        assert_eq!(left_out.len(), 2, "keys and values of different types:\n{}", run.stderr);
        for (line, types) in left_out.iter().zip(["-ctk f16 -ctv f32", "-ctk f32 -ctv f16"]) {
            assert!(line.contains(types) && line.contains("left out"), "{line}");
        }
        let results = run.json();
        std::fs::write(folder.path().join("a.json"), &run.stdout).expect("written");
        Fixture { folder, results }
    })
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key}: {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("no {key}: {value}"))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn every_combination_is_measured() {
    let results = &fixture().results;
    assert_eq!(results["format"], "tilekiln bench 1");
    let tests = list(results, "tests");
    let labels: Vec<String> = tests
        .iter()
        .map(|test| {
            format!(
                "{} {}",
                test["type_k"].as_str().unwrap_or_default(),
                test["test"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let mut expected = Vec::new();
    for cache in ["f16", "f32"] {
        for depth in ["", " @ d9"] {
            let one = ["pp6", "tg2", "pp4+tg1", "1 row", "3 rows"];
            expected.extend(one.map(|test| format!("{cache} {test}{depth}")));
        }
        for depth in ["", " @ d9"] {
            expected.extend(["tg2 x2", "pp4+tg1 x2"].map(|test| format!("{cache} {test}{depth}")));
        }
    }
    assert_eq!(labels, expected);
}

#[test]
fn rates_follow_from_times_and_bytes() {
    let results = &fixture().results;
    let roofline = number(&results["roofline"], "bytes_per_second");
    assert!(roofline > 1e6, "{results}");
    for test in list(results, "tests") {
        let count = |key: &str| test[key].as_u64().unwrap_or_else(|| panic!("no {key}: {test}"));
        let tokens = count("n_parallel") * (count("n_prompt") + count("n_gen")) + count("n_rows");
        let rates: Vec<f64> = list(test, "samples_ts").iter().filter_map(Value::as_f64).collect();
        for (rate, time) in rates.iter().zip(list(test, "samples_ns")) {
            assert!(
                close(*rate, tokens as f64 * 1e9 / time.as_f64().expect("a time")),
                "{test}"
            );
        }
        let (low, high) = (rates[0].min(rates[1]), rates[0].max(rates[1]));
        let median = number(test, "median_ts");
        assert_eq!(
            (rates.len(), number(test, "min_ts"), number(test, "max_ts")),
            (2, low, high)
        );
        assert!(
            close(median, (low + high) / 2.0) && close(number(test, "avg_ts"), median),
            "{test}"
        );
        assert!(
            close(number(test, "spread_percent"), 100.0 * (high - low) / median),
            "{test}"
        );
        let rate = number(test, "bytes_per_token") * median;
        assert!(rate > 0.0 && close(number(test, "bytes_per_second"), rate), "{test}");
        assert!(
            close(number(test, "percent_of_roofline"), 100.0 * rate / roofline),
            "{test}"
        );
        assert!(number(test, "operations_per_second") > 0.0, "{test}");
        let is_step = count("n_rows") > 0;
        assert_eq!(test["ratio_to_one_row"].is_number(), is_step, "{test}");
        assert!(
            count("n_rows") != 1 || number(test, "ratio_to_one_row") == 1.0,
            "{test}"
        );
    }
    let bytes = |label: &str| {
        let of_label = |test: &&Value| test["test"] == label && test["type_k"] == "f16";
        number(
            list(results, "tests").iter().find(of_label).expect(label),
            "bytes_per_token",
        )
    };
    assert!(bytes("tg2 @ d9") > bytes("tg2"), "the cache counts");
    assert!(bytes("tg2 x2") < bytes("tg2"), "sequences share the weights");
    assert!(bytes("pp6") < bytes("tg2"), "so do the rows of a prompt");
}

#[test]
fn the_start_is_reported() {
    let fixture = fixture();
    let start = &fixture.results["start"];
    for key in [
        "open_ms",
        "plan_ms",
        "compile_cold_ms",
        "compile_warm_ms",
        "weights_ms",
        "first_step_ms",
    ] {
        assert!(number(start, key) > 0.0, "{key}: {start}");
    }
    assert!(number(start, "kernels") > 20.0, "{start}");
    // the host device compiles nothing that could be kept
    assert_eq!(start["from_cache"], 0);
    let tensors: usize = fixture
        .file()
        .tensors()
        .iter()
        .map(|tensor| fixture.file().range(tensor).expect("in the file").len())
        .sum();
    let model = &fixture.results["model"];
    assert_eq!(
        (model["bytes"].as_u64(), model["file"].as_str()),
        (Some(tensors as u64), Some("tiny.gguf"))
    );
}

#[test]
fn the_plot_has_the_series_and_the_stages() {
    let fixture = fixture();
    let svg = std::fs::read_to_string(fixture.path("plot.svg")).expect("it was drawn");
    let document = roxmltree::Document::parse(&svg).expect("well-formed");
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let texts: BTreeSet<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name("text"))
        .filter_map(|node| node.text())
        .map(str::trim)
        .collect();
    for series in [
        "f16 cache, tg2",
        "f16 cache, tg2 x2",
        "f32 cache, tg2",
        "f32 cache, tg2 x2",
    ] {
        assert!(texts.contains(series), "no {series}: {texts:?}");
    }
    for text in [
        "predicted",
        "measured",
        "head.output",
        "ffn_gate_up",
        "positions in the cache",
    ] {
        assert!(texts.contains(text), "no {text}: {texts:?}");
    }
    let stages = &fixture.results["stages"];
    assert_eq!(
        (&stages["n_rows"], &stages["n_depth"], &stages["cache"]),
        (&json!(1), &json!(0), &json!("f16"))
    );
    let kinds = list(stages, "kinds");
    let sum = |key: &str| kinds.iter().map(|kind| number(kind, key)).sum::<f64>();
    assert!(close(sum("predicted_us"), number(stages, "predicted_us")), "{stages}");
    assert!(close(sum("measured_us"), number(stages, "measured_us")), "{stages}");
    for kind in kinds {
        assert!(
            number(kind, "predicted_us") > 0.0 && number(kind, "measured_us") > 0.0,
            "{kind}"
        );
    }
    let downs = kinds
        .iter()
        .filter(|kind| kind["kind"] == "ffn_down")
        .map(|kind| number(kind, "count"));
    assert_eq!(downs.sum::<f64>(), 6.0, "one a layer: {stages}");
}

const SHORT: &[&str] = &[
    "bench",
    "--device",
    "host",
    "-p",
    "0",
    "-n",
    "1",
    "-r",
    "1",
    "--no-warmup",
];

#[test]
fn tables_for_people_and_for_spreadsheets() {
    let model = fixture().model();
    let run = Run::new(&[SHORT, &["-m", text(&model), "--rows", "2", "-t", "1"]].concat()).ended(0);
    let rows: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let head = [
        "model",
        "size",
        "device",
        "kv",
        "test",
        "tok/s",
        "bytes/token",
        "TB/s",
        "% of roofline",
    ];
    assert_eq!(rows[0], head, "{}", run.stdout);
    assert!(rows[1].iter().all(|cell| cell.trim_matches([':', '-']).is_empty()));
    assert_eq!((rows[2].len(), rows[2][3], rows[2][4]), (head.len(), "f16", "tg1"));
    assert!(rows[2][5].ends_with("± 0.0 %"), "one run has no spread: {:?}", rows[2]);
    assert_eq!(rows[3][..4], ["one step of", "kv", "µs", "of one row"]);
    assert_eq!((rows[5][0], rows[5][3], rows[6][0]), ("1 row", "1.00", "2 rows"));
    for part in ["roofline: ", "start: cold ", "made-up tokens"] {
        assert!(run.stdout.contains(part), "no {part}:\n{}", run.stdout);
    }
    for part in ["roofline: ", "load: ", "tg1 (f16 cache): "] {
        assert!(run.stderr.contains(part), "progress says {part}:\n{}", run.stderr);
    }

    let csv = Run::new(&[SHORT, &["-m", text(&model), "-o", "csv", "-q", "--exact"]].concat()).ended(0);
    assert_eq!(csv.stderr, "");
    let mut reader = csv::Reader::from_reader(csv.stdout.as_bytes());
    let head = reader.headers().expect("a head").clone();
    let rows: Vec<csv::StringRecord> = reader
        .records()
        .collect::<Result<_, _>>()
        .expect("rows of the same length");
    assert_eq!(rows.len(), 1, "{}", csv.stdout);
    let cell = |name: &str| {
        let column = head
            .iter()
            .position(|column| column == name)
            .unwrap_or_else(|| panic!("no {name}: {head:?}"));
        rows[0].get(column).expect("as long as the head")
    };
    assert_eq!((cell("type_k"), cell("type_v"), cell("exact")), ("f32", "f32", "true"));
    assert_eq!(
        (cell("n_gen"), cell("n_prompt"), cell("ratio_to_one_row")),
        ("1", "0", "")
    );
    assert!(
        cell("median_ts").parse::<f64>().is_ok_and(|speed| speed > 0.0),
        "{}",
        csv.stdout
    );
}

#[test]
fn two_runs_side_by_side() {
    let fixture = fixture();
    // B: the answers of one sequence at twice the time, one test less, one more, another device
    let mut b = fixture.results.clone();
    b["device"]["name"] = json!("another");
    let tests = b["tests"].as_array_mut().expect("a list");
    tests.remove(0);
    for test in tests.iter_mut().filter(|test| test["test"] == "tg2") {
        for key in ["median_ts", "min_ts", "max_ts"] {
            test[key] = json!(number(test, key) / 1000.0);
        }
    }
    tests[0]["n_gen"] = json!(99);
    tests[0]["test"] = json!("tg99");
    std::fs::write(fixture.path("b.json"), b.to_string()).expect("written");
    let (a, b) = (fixture.path("a.json"), fixture.path("b.json"));
    let line = ["bench", "--compare", text(&a), text(&b)];

    let json = Run::new(&[&line[..], &["--json"]].concat()).ended(0).json();
    assert_eq!(list(&json, "tests").len(), 26, "{json}");
    for test in list(&json, "tests") {
        let (ratio, verdict) = (number(test, "ratio"), test["verdict"].as_str());
        if test["test"] == "tg2" {
            assert!(close(ratio, 1000.0) && verdict == Some("faster"), "{test}");
        } else {
            assert!(ratio == 1.0 && verdict == Some("noise"), "{test}");
        }
        assert!(
            number(test, "ratio_min") <= ratio && ratio <= number(test, "ratio_max"),
            "{test}"
        );
    }
    assert_eq!(list(&json, "only_a").len(), 2, "{json}");
    assert_eq!(json["only_b"], json!(["tg99 (f16 cache)"]));
    let differences = list(&json, "differences");
    assert!(
        differences.len() == 1 && differences[0].as_str().is_some_and(|line| line.ends_with("B another")),
        "{json}"
    );

    let md = Run::new(&line).ended(0);
    for part in [
        " A/B |",
        "A faster",
        "within noise",
        "only in B: tg99",
        "differs: device",
    ] {
        assert!(md.stdout.contains(part), "no {part}:\n{}", md.stdout);
    }
    let csv = Run::new(&[&line[..], &["-o", "csv"]].concat()).ended(0).stdout;
    assert_eq!(csv.lines().count(), 27, "{csv}");
    let same = Run::new(&["bench", "--compare", text(&a), text(&a)]).ended(0).stdout;
    assert!(
        !same.contains("faster") && !same.contains("only in") && !same.contains("differs"),
        "{same}"
    );
}

/// Command line, exit code, and what stderr has to name.
#[test]
fn what_cannot_be_is_named() {
    let fixture = fixture();
    let path = |name: &str, contents: &str| {
        std::fs::write(fixture.path(name), contents).expect("written");
        fixture.path(name).display().to_string()
    };
    let model = fixture.model().display().to_string();
    let a = fixture.path("a.json").display().to_string();
    let other = path("list.json", "[{\"n_prompt\": 512}]");
    let broken = path("broken.json", "{\"format\": \"tilekiln bench 1\"}");
    let old = path("old.json", "{\"format\": \"tilekiln bench 0\"}");
    let words = path("words.json", "| model |");
    let table: &[(String, i32, &[&str])] = &[
        ("bench -p 0 -n 0".into(), 2, &["nothing to measure", "--rows"]),
        ("bench -r 0".into(), 2, &["-r 0"]),
        ("bench -npl 0".into(), 2, &["-npl 0"]),
        ("bench -ub 0".into(), 2, &["-ub 0"]),
        ("bench -p many".into(), 2, &["`many`"]),
        ("bench -d 8-4".into(), 2, &["8-4", "8 is more than 4"]),
        ("bench -pg 512".into(), 2, &["512,128"]),
        ("bench -ctk q9_0".into(), 2, &["-ctk", "`q9_0`", "turbo3"]),
        ("bench -ctk f16 -ctv f32".into(), 2, &["f32 for both"]),
        ("bench --exact -ctk f16".into(), 2, &["--exact", "drop"]),
        ("bench -o yaml".into(), 2, &["yaml", "md, json, csv"]),
        ("bench -o md --json".into(), 2, &["--output", "--json"]),
        ("bench -nkvo 1".into(), 2, &["-nkvo 1", "--device host"]),
        ("bench -embd 1".into(), 2, &["-embd 1"]),
        ("bench -mg 1".into(), 2, &["-mg 1", "CUDA_VISIBLE_DEVICES"]),
        ("bench -sm tensor".into(), 2, &["-sm tensor", "none, layer, row"]),
        ("bench -fa maybe".into(), 2, &["-fa maybe"]),
        ("bench -ngl 0,99".into(), 2, &["-ngl 0,99", "not split"]),
        ("bench -ngl x".into(), 2, &["-ngl x"]),
        ("bench -ngl 0 --device cuda".into(), 2, &["-ngl 0", "--device cuda"]),
        ("bench -t 4,8".into(), 2, &["-t 4,8", "once for each"]),
        ("bench -m no/such.gguf --device host".into(), 1, &["no/such.gguf"]),
        (format!("bench -m {a} --device host"), 1, &["a.json"]),
        (
            "bench --plot no/such/folder.svg".into(),
            1,
            &["no/such/folder.svg", "cannot be written"],
        ),
        ("bench --compare x.json".into(), 2, &["--compare"]),
        (
            "bench --compare x.json y.json -p 3".into(),
            2,
            &["--compare", "--n-prompt"],
        ),
        (format!("bench --compare {a} no/such.json"), 1, &["no/such.json"]),
        (
            format!("bench --compare {other} {a}"),
            1,
            &["list.json", "bench -o json"],
        ),
        (
            format!("bench --compare {a} {broken}"),
            1,
            &["broken.json", "missing field"],
        ),
        (
            format!("bench --compare {a} {old}"),
            1,
            &["old.json", "`tilekiln bench 0`", "measure again"],
        ),
        (format!("bench --compare {words} {a}"), 1, &["words.json", "no JSON"]),
        ("plan --target sm_9".into(), 2, &["`sm_9`", "gfx1150"]),
        ("plan --target host".into(), 2, &["--target host", "--measure"]),
        ("plan --card voodoo".into(), 2, &["`voodoo`", "h100"]),
        ("plan --card h100 --target sm_80".into(), 2, &["--card h100", "sm_80"]),
        ("plan --measure --card h100".into(), 2, &["--measure", "--card"]),
        (
            "plan --measure --device host --target sm_90".into(),
            2,
            &["--measure", "host", "sm_90"],
        ),
        ("plan --rows 0".into(), 2, &["--rows 0"]),
        ("plan -np 0".into(), 2, &["-np 0"]),
        ("plan -d 99999999999".into(), 2, &["-d 99999999999"]),
        ("plan -ctk turbo5".into(), 2, &["-ctk", "`turbo5`"]),
        ("plan -ctv f32".into(), 2, &["values as f32", "f32 for both"]),
        ("plan -m no/such.gguf".into(), 1, &["no/such.gguf"]),
        (
            format!("plan -m {model} -d 16777216 -np 65536"),
            1,
            &["cache", "smaller context"],
        ),
    ];
    for (line, code, named) in table {
        refused(line, *code, named);
    }
}

#[test]
fn flags_without_effect_are_noted() {
    let model = fixture().model();
    let flags = "-fa 0 -mmp 1 -sm layer -mg 0 -nkvo 0 -embd 0 -ngl 99 --prio 2 --poll 50 --progress -q";
    let flags: Vec<&str> = flags.split(' ').collect();
    let run = Run::new(&[SHORT, &["-m", text(&model)], &flags].concat()).ended(0);
    let noted: Vec<&str> = run.stderr.lines().collect();
    let starts = [
        "-ngl 99: ",
        "-fa 0: ",
        "-sm layer: ",
        "-mmp 1: ",
        "--prio 2: ",
        "--poll 50: ",
    ];
    assert_eq!(noted.len(), starts.len(), "{}", run.stderr);
    for (line, start) in noted.iter().zip(starts) {
        assert!(line.starts_with(&format!("tilekiln: {start}")), "{line}");
    }
}

fn plan(arguments: &[&str]) -> Value {
    let model = fixture().model();
    Run::new(&[&["plan", "-m", text(&model), "--json"], arguments].concat())
        .ended(0)
        .json()
}

#[test]
fn every_target_has_a_plan() {
    for target in TARGETS {
        let report = plan(&["--target", target.name, "--all"]);
        assert_eq!(report["target"], target.name);
        let card = Card::of_target(target.name).expect("a card");
        assert_eq!(report["card"]["name"], card.name.as_str());
        assert!(list(&report["card"], "sources").len() >= 3, "{report}");
        let (launches, groups, total) = (list(&report, "launches"), list(&report, "groups"), &report["total"]);
        let count: f64 = groups.iter().map(|group| number(group, "count")).sum();
        assert_eq!((launches.len() as f64, number(total, "launches")), (count, count));
        let sum = |rows: &[Value]| rows.iter().map(|row| number(row, "seconds")).sum::<f64>();
        let predicted = number(total, "predicted_seconds");
        assert!(
            close(sum(launches), predicted) && close(sum(groups), predicted),
            "{total}"
        );
        assert!(predicted > count * card.launch.min(card.dependent_launch), "{total}");
        assert!(
            close(number(total, "predicted_tokens_per_second"), 1.0 / predicted),
            "{total}"
        );
        for launch in launches {
            assert!(
                number(launch, "seconds") > 0.0 && launch["measured_seconds"].is_null(),
                "{launch}"
            );
            let bounds = ["memory", "compute", "latency", "blocks"];
            assert!(
                launch["bound"].as_str().is_some_and(|bound| bounds.contains(&bound)),
                "{launch}"
            );
        }
        let kinds: BTreeSet<&str> = groups.iter().filter_map(|group| group["kind"].as_str()).collect();
        for kind in [
            "embed",
            "attn_q",
            "attend",
            "prepare_attention",
            "ffn_down",
            "proj",
            "head.output",
            "best_token",
        ] {
            assert!(kinds.contains(kind), "no {kind}: {kinds:?}");
        }
    }
}

#[test]
fn bytes_are_those_of_the_file_and_of_the_cache() {
    let file = fixture().file();
    let config = TargetConfig::read(file.metadata()).expect("a model");
    // matrices are read once a step, in whole tiles; of tables only the rows of the tokens; vectors are small
    let tables = ["token_embd.weight", "per_layer_token_embd.weight"];
    let is_table = |name: &str| tables.contains(&name);
    let (mut matrices, mut all) = (0, 0);
    for tensor in file.tensors().iter().filter(|tensor| !is_table(&tensor.name)) {
        let in_file = file.range(tensor).expect("in the file").len();
        if tensor.rows() > 1 {
            let format = WEIGHTS.iter().find(|weight| Some(weight.name) == tensor.kind.codec());
            let packing = format.and_then(|weight| weight.packing.as_ref());
            let bytes = packing.map_or(in_file, |packing| (packing.bytes)(tensor.rows(), tensor.dims[0]));
            matrices += bytes;
            all += bytes;
        } else {
            all += in_file;
        }
    }
    let weights = |report: &Value| number(&report["total"]["bytes"], "weights");
    let one = plan(&[]);
    assert!(
        weights(&one) >= matrices as f64 && weights(&one) < 1.02 * all as f64,
        "{} of {all}",
        weights(&one)
    );
    // up to 32 rows share one read, and up to eight without packed weights
    for (exact, shared, more) in [(false, "32", "33"), (true, "8", "9")] {
        let repeated = |rows: &str| {
            let exact: &[&str] = if exact { &["--exact"] } else { &[] };
            let report = plan(&[&["--rows", rows], exact].concat());
            (number(&report["total"]["bytes"], "repeated"), weights(&report))
        };
        assert_eq!((repeated("1").0, repeated(shared).0), (0.0, 0.0));
        let (again, once) = repeated(more);
        assert!(again > 0.9 * once && again < once, "{again} of {once}");
    }

    // a row reads what it sees of its layer's keys and values, and stores its own in layers that own some
    let value = |layer: &tilekiln::model::config::Layer| 2 * layer.kv_heads * layer.head_dim;
    let expected = |depth: usize, sequences: usize, bytes: usize| {
        let layers = config.shape.layers.iter().enumerate();
        let positions = layers.map(|(index, layer)| {
            let seen = layer.window.map_or(depth + 1, |window| window.min(depth + 1));
            let stored = usize::from(index < config.own_layers);
            (seen + stored) * value(layer)
        });
        (sequences * bytes * positions.sum::<usize>()) as f64
    };
    for (depth, sequences, cache, bytes) in [("0", "1", "f16", 2), ("7", "1", "bf16", 2), ("500", "3", "f32", 4)] {
        let report = plan(&["-d", depth, "-np", sequences, "-ctk", cache, "-ctv", cache]);
        let expected = expected(
            depth.parse().expect("a number"),
            sequences.parse().expect("a number"),
            bytes,
        );
        assert_eq!(
            number(&report["total"]["bytes"], "cache"),
            expected,
            "{depth} {sequences} {cache}"
        );
        assert_eq!(report["step"]["type_k"], cache);
    }
}

#[test]
fn plans_as_tables() {
    let model = fixture().model();
    let run = Run::new(&[
        "plan",
        "-m",
        text(&model),
        "--target",
        "gfx1150",
        "-d",
        "100",
        "--rows",
        "4",
    ])
    .ended(0);
    assert_eq!(run.stderr, "");
    let rows = |text: &str| text.lines().filter(|line| line.starts_with('|')).count();
    for part in [
        "AMD Radeon 890M",
        "a step of 1 x 4 rows behind 100 positions, f16 cache",
        "| stage ",
        "| bound ",
        "86 launches",
        "predicted: ",
        "tok/s; the memory alone would allow",
        "WMMA",
    ] {
        assert!(run.stdout.contains(part), "no {part}:\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("measured µs"), "{}", run.stdout);
    let all = Run::new(&["plan", "-m", text(&model), "--all"]).ended(0).stdout;
    assert!(all.contains("| blk.5.attn_q ") && all.contains("NVIDIA H100"), "{all}");
    assert_eq!(rows(&all), 86 + 2);
    assert!(rows(&run.stdout) < 60);
    // a prompt's rows need fewer layers and no head
    let prompt = Run::new(&["plan", "-m", text(&model), "--prompt", "--rows", "64"])
        .ended(0)
        .stdout;
    assert!(
        prompt.contains("64 prompt rows") && !prompt.contains("head.output"),
        "{prompt}"
    );
}

#[test]
fn measured_beside_predicted() {
    let arguments = [
        "--measure",
        "--device",
        "host",
        "-d",
        "5",
        "--rows",
        "2",
        "-r",
        "1",
        "--all",
        "-q",
    ];
    let report = plan(&arguments);
    assert_eq!(report["target"], "host");
    let total = &report["total"];
    for key in [
        "measured_seconds",
        "measured_step_seconds",
        "measured_tokens_per_second",
    ] {
        assert!(number(total, key) > 0.0, "{key}: {total}");
    }
    let sum = |rows: &[Value]| rows.iter().map(|row| number(row, "measured_seconds")).sum::<f64>();
    assert!(
        close(sum(list(&report, "groups")), number(total, "measured_seconds")),
        "{total}"
    );
    assert!(
        close(sum(list(&report, "launches")), number(total, "measured_seconds")),
        "{total}"
    );
    assert!(
        report["card"]["vector_operations_per_second"].is_null(),
        "a CPU has no rates: {report}"
    );

    let model = fixture().model();
    let table = Run::new(&[&["plan", "-m", text(&model)], &arguments[..9]].concat()).ended(0);
    assert!(
        table.stdout.contains("| measured µs ") && table.stdout.contains("\nmeasured: "),
        "{}",
        table.stdout
    );
}
