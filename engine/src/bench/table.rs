//! Results as text: Markdown for people, CSV for spreadsheets.

use super::results::{Measured, Results, StageFigures, StageKind, figures};

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A Markdown table whose columns line up as plain text, too.
pub fn markdown(head: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.chain([head[column].0.chars().count(), 3]).max().unwrap_or(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let padded = |text: &str, column: usize| {
        let space = " ".repeat(widths[column] - text.chars().count());
        match head[column].1 {
            Align::Left => format!("{text}{space}"),
            Align::Right => format!("{space}{text}"),
        }
    };
    let mut text = line(
        head.iter()
            .enumerate()
            .map(|(column, (name, _))| padded(name, column))
            .collect(),
    );
    let rule = head.iter().zip(&widths).map(|((_, align), width)| match align {
        Align::Left => "-".repeat(*width),
        Align::Right => format!("{}:", "-".repeat(width - 1)),
    });
    text += &line(rule.collect());
    for row in rows {
        let cells = row.iter().take(head.len()).enumerate();
        text += &line(cells.map(|(column, cell)| padded(cell, column)).collect());
    }
    text
}

/// A size as people say it, in powers of 1000.
pub fn bytes(count: f64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let unit = units.into_iter().find(|(_, size)| count >= *size);
    match unit {
        Some((name, size)) => format!("{} {name}", figures(count / size)),
        None => format!("{count:.0} B"),
    }
}

/// The size of a file, in powers of 1024 as llama-bench has it.
fn binary(count: u64) -> String {
    let (size, name) = if count < 1 << 30 {
        (1 << 20, "MiB")
    } else {
        (1 << 30, "GiB")
    };
    format!("{:.2} {name}", count as f64 / f64::from(size))
}

/// A rate as people say it.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// The whole of the results for people: a table of tests, one of steps, one of stages, and what it was measured against.
pub fn report(results: &Results) -> String {
    let mut text = String::new();
    let (steps, tests): (Vec<&Measured>, Vec<&Measured>) = results.tests.iter().partition(|test| test.key.is_step());
    if !tests.is_empty() {
        text += &tests_table(results, &tests);
    }
    if !steps.is_empty() {
        text += if text.is_empty() { "" } else { "\n" };
        text += &steps_table(&steps);
    }
    if let Some(stages) = &results.stages {
        text += "\n";
        text += &stages_table(stages);
    }
    text + "\n" + &footer(results)
}

fn tests_table(results: &Results, tests: &[&Measured]) -> String {
    let head = [
        ("model", Align::Left),
        ("size", Align::Right),
        ("device", Align::Left),
        ("kv", Align::Left),
        ("test", Align::Left),
        ("tok/s", Align::Right),
        ("bytes/token", Align::Right),
        ("TB/s", Align::Right),
        ("% of roofline", Align::Right),
    ];
    // prompts are evaluated in chunks; their size is worth telling where there are several
    let chunk = |test: &&Measured| test.key.n_ubatch;
    let same_chunk = tests
        .iter()
        .map(chunk)
        .all(|size| Some(size) == tests.first().map(chunk));
    let row = |test: &&Measured| {
        let ub = if same_chunk || test.key.n_prompt == 0 {
            String::new()
        } else {
            format!(" (ub {})", test.key.n_ubatch)
        };
        vec![
            results.model.name.clone(),
            binary(results.model.bytes),
            results.device.name.clone(),
            test.key.cache(),
            format!("{}{ub}", test.test),
            test.spread.to_string(),
            bytes(test.bytes_per_token),
            figures(test.bytes_per_second / 1e12),
            figures(test.percent_of_roofline),
        ]
    };
    markdown(&head, &tests.iter().map(row).collect::<Vec<_>>())
}

fn steps_table(steps: &[&Measured]) -> String {
    let head = [
        ("one step of", Align::Left),
        ("kv", Align::Left),
        ("µs", Align::Right),
        ("of one row", Align::Right),
        ("bytes", Align::Right),
        ("TB/s", Align::Right),
        ("% of roofline", Align::Right),
    ];
    let row = |test: &&Measured| {
        vec![
            test.test.clone(),
            test.key.cache(),
            format!(
                "{} ± {:.1} %",
                figures(test.step_us()),
                test.spread.spread_percent / 2.0
            ),
            test.ratio_to_one_row
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            bytes(test.bytes_per_token * test.key.n_rows as f64),
            figures(test.bytes_per_second / 1e12),
            figures(test.percent_of_roofline),
        ]
    };
    markdown(&head, &steps.iter().map(row).collect::<Vec<_>>())
}

fn stages_table(stages: &StageFigures) -> String {
    let head = [
        ("stage", Align::Left),
        ("launches", Align::Right),
        ("bytes", Align::Right),
        ("predicted µs", Align::Right),
        ("measured µs", Align::Right),
        ("TB/s", Align::Right),
        ("bound", Align::Left),
    ];
    let row = |(kind, name): (&StageKind, String)| {
        vec![
            name,
            kind.count.to_string(),
            bytes(kind.bytes as f64),
            figures(kind.predicted_us),
            figures(kind.measured_us),
            figures(kind.bytes as f64 / kind.measured_us.max(1e-9) / 1e6),
            kind.bound.clone(),
        ]
    };
    let rows: Vec<_> = stages.kinds.iter().zip(stages.names()).map(row).collect();
    let table = markdown(&head, &rows);
    format!(
        "{table}all: predicted {} µs, measured by kind {} µs, a step {} µs ({} x {} rows @ d{}, {} cache)\n",
        figures(stages.predicted_us),
        figures(stages.measured_us),
        figures(stages.step_us),
        stages.n_parallel,
        stages.n_rows,
        stages.n_depth,
        stages.cache
    )
}

/// What the figures are measured against, and how the start went.
fn footer(results: &Results) -> String {
    let (roofline, start) = (&results.roofline, &results.start);
    let kernels = if results.device.target == "host" {
        format!(
            "{} kernels prepared in {} ms (the CPU keeps none)",
            start.kernels,
            figures(start.compile_cold_ms)
        )
    } else {
        format!(
            "{} kernels: {} ms with an empty cache, {} ms with a full one ({} found)",
            start.kernels,
            figures(start.compile_cold_ms),
            figures(start.compile_warm_ms),
            start.from_cache
        )
    };
    let tuned = results.tuning.iter().map(|tuning| format!("{tuning}\n"));
    let tuned: String = tuned.collect();
    format!(
        "{tuned}roofline: {} ± {:.1} %, the median of reads of {} MiB; a launch takes {} µs\n\
         start: cold {} ms, warm {} ms; device {} ms, plan {} ms, {kernels}, weights {} in {} ms, first step {} ms\n\
         ± is half the distance from slowest to fastest of {} runs, around the median; depths are filled with made-up tokens\n",
        rate(roofline.bytes_per_second),
        roofline.spread_percent / 2.0,
        roofline.buffer_bytes >> 20,
        figures(roofline.launch_us),
        figures(start.cold_ms()),
        figures(start.warm_ms()),
        figures(start.open_ms),
        figures(start.plan_ms),
        bytes(start.weight_bytes as f64),
        figures(start.weights_ms),
        figures(start.first_step_ms),
        results.repetitions,
    )
}

/// One line per test, with everything that identifies it.
///
/// # Errors
/// None that can occur while writing to memory.
pub fn csv(results: &Results) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "model",
        "file",
        "size_bytes",
        "parameters",
        "device",
        "target",
        "exact",
        "type_k",
        "type_v",
        "test",
        "n_prompt",
        "n_gen",
        "n_rows",
        "n_depth",
        "n_parallel",
        "n_ubatch",
        "repetitions",
        "avg_ts",
        "stddev_ts",
        "median_ts",
        "min_ts",
        "max_ts",
        "spread_percent",
        "bytes_per_token",
        "bytes_per_second",
        "percent_of_roofline",
        "operations_per_second",
        "ratio_to_one_row",
        "roofline_bytes_per_second",
    ])?;
    for test in &results.tests {
        let (key, spread) = (&test.key, &test.spread);
        writer.write_record([
            results.model.name.clone(),
            results.model.file.clone(),
            results.model.bytes.to_string(),
            results.model.parameters.to_string(),
            results.device.name.clone(),
            results.device.target.clone(),
            results.exact.to_string(),
            key.type_k.clone(),
            key.type_v.clone(),
            test.test.clone(),
            key.n_prompt.to_string(),
            key.n_gen.to_string(),
            key.n_rows.to_string(),
            key.n_depth.to_string(),
            key.n_parallel.to_string(),
            key.n_ubatch.to_string(),
            results.repetitions.to_string(),
            test.avg_ts.to_string(),
            test.stddev_ts.to_string(),
            spread.median_ts.to_string(),
            spread.min_ts.to_string(),
            spread.max_ts.to_string(),
            spread.spread_percent.to_string(),
            test.bytes_per_token.to_string(),
            test.bytes_per_second.to_string(),
            test.percent_of_roofline.to_string(),
            test.operations_per_second.to_string(),
            test.ratio_to_one_row
                .map_or_else(String::new, |ratio| ratio.to_string()),
            results.roofline.bytes_per_second.to_string(),
        ])?;
    }
    let bytes = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = markdown(
            &[("name", Align::Left), ("n", Align::Right)],
            &[
                vec!["µs".to_owned(), "1".to_owned()],
                vec!["longer".to_owned(), "1234".to_owned()],
            ],
        );
        let expected = "| name   |    n |\n| ------ | ---: |\n| µs     |    1 |\n| longer | 1234 |\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn sizes_for_people() {
        for (count, text) in [
            (12.0, "12 B"),
            (2500.0, "2.500 kB"),
            (2.93e9, "2.930 GB"),
            (3.1e12, "3100 GB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(rate(105e9), "105.0 GB/s");
    }
}
