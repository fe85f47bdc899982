//! Results as a picture (SVG): tokens per second over depth, and the launches of one step by kind.

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::results::{Measured, Results, StageFigures, figures};

/// Pixels.
const WIDTH: u32 = 1000;
const SPEED_HEIGHT: u32 = 480;
/// Of the lower panel: its frame, and each kind.
const STAGES_FRAME: u32 = 110;
const BAR_HEIGHT: u32 = 26;
/// Kinds with a bar of their own; the others share one.
const KINDS: usize = 16;

/// Limits that are further above the fastest test are not drawn.
const FAR: f64 = 8.0;

/// Colours that differ in lightness, too.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x1b, 0x5e, 0xa8),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0x9c, 0x27, 0x6e),
    RGBColor(0x66, 0x66, 0x66),
    RGBColor(0xa6, 0x76, 0x1d),
    RGBColor(0x75, 0x70, 0xb3),
    RGBColor(0x33, 0x33, 0x33),
];

/// Why nothing is drawn.
#[derive(Debug, thiserror::Error)]
#[error("the plot cannot be drawn: {0}")]
pub struct PlotError(String);

fn failed(error: impl Display) -> PlotError {
    PlotError(error.to_string())
}

/// One line of the upper panel.
struct Series<'a> {
    name: String,
    /// By depth.
    tests: Vec<&'a Measured>,
}

/// A bar pair of the lower panel.
struct Bars {
    name: String,
    predicted_us: f64,
    measured_us: f64,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws results: a line for each type of cache and kind of test, with the memory's limit for it as dashes; and, where the
/// stages were timed, predicted and measured time of each kind.
///
/// # Errors
/// None that results of this program cause.
pub fn draw(results: &Results) -> Result<String, PlotError> {
    let bars = results.stages.as_ref().map(bars).unwrap_or_default();
    let stages_height = match bars.len() {
        0 => 0,
        count => STAGES_FRAME + BAR_HEIGHT * count as u32,
    };
    let mut text = String::new();
    {
        let backend = SVGBackend::with_string(&mut text, (WIDTH, SPEED_HEIGHT + stages_height));
        let root = backend.into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (upper, lower) = root.split_vertically(SPEED_HEIGHT);
        speeds(results, &upper)?;
        if let Some(stages) = results.stages.as_ref().filter(|_| !bars.is_empty()) {
            draw_bars(stages, &bars, &lower)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(text)
}

/// Answers by cache and number of sequences; prompts where no answers were measured.
fn series(results: &Results) -> Vec<Series<'_>> {
    let is_answer = |test: &&Measured| test.key.n_gen > 0 && test.key.n_prompt == 0;
    let has_answers = results.tests.iter().any(|test| is_answer(&test));
    let mut all: Vec<Series<'_>> = Vec::new();
    for test in results.tests.iter().filter(|test| !test.key.is_step()) {
        if has_answers && !is_answer(&test) {
            continue;
        }
        let mut key = test.key.clone();
        key.n_depth = 0;
        let name = format!("{} cache, {}", key.cache(), key.label());
        match all.iter_mut().find(|series| series.name == name) {
            Some(series) => series.tests.push(test),
            None => all.push(Series {
                name,
                tests: vec![test],
            }),
        }
    }
    for series in &mut all {
        series.tests.sort_by_key(|test| test.key.n_depth);
    }
    all
}

/// Tokens a second that the memory alone would allow.
fn limit(test: &Measured, results: &Results) -> f64 {
    results.roofline.bytes_per_second / test.bytes_per_token
}

fn speeds(results: &Results, area: &Area<'_>) -> Result<(), PlotError> {
    let all = series(results);
    let tests = all.iter().flat_map(|series| &series.tests);
    let deepest = tests.clone().map(|test| test.key.n_depth).max().unwrap_or(0).max(1) as f64;
    let fastest = tests.clone().map(|test| test.spread.max_ts).fold(0.0, f64::max);
    // limits far above what was reached would leave no room for the lines
    let limits = tests
        .map(|test| limit(test, results))
        .filter(|limit| *limit < FAR * fastest);
    let highest = limits.fold(fastest, f64::max);
    let top = 1.08 * highest.max(f64::MIN_POSITIVE);
    let speed_label = if highest > fastest {
        "tokens per second (dashes: what the memory allows)"
    } else {
        "tokens per second"
    };
    let title = format!("{} on {}", results.model.name, results.device.name);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.02 * deepest..1.02 * deepest, 0.0..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("positions in the cache")
        .y_desc(speed_label)
        .x_label_formatter(&|depth| {
            if *depth < 0.0 {
                String::new()
            } else {
                format!("{depth:.0}")
            }
        })
        .y_label_formatter(&|speed| format!("{speed:.*}", if top < 10.0 { 2 } else { 0 }))
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    for (series, colour) in all.iter().zip(COLOURS.iter().cycle().copied()) {
        let at = |test: &Measured, speed: f64| (test.key.n_depth as f64, speed);
        let line: Vec<_> = series
            .tests
            .iter()
            .map(|test| at(test, test.spread.median_ts))
            .collect();
        let drawn = chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)));
        drawn
            .map_err(failed)?
            .label(series.name.clone())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        let dots = line.iter().map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(dots).map_err(failed)?;
        let ranges = series.tests.iter().map(|test| {
            let ends = [test.spread.min_ts, test.spread.max_ts].map(|speed| at(test, speed));
            PathElement::new(ends.to_vec(), colour.stroke_width(1))
        });
        chart.draw_series(ranges).map_err(failed)?;
        let allowed = series.tests.iter().map(|test| at(test, limit(test, results)));
        let allowed: Vec<_> = allowed.filter(|(_, speed)| *speed <= top).collect();
        chart
            .draw_series([DashedPathElement::new(allowed, 6, 4, colour.stroke_width(1))])
            .map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(failed)
}

/// The kinds, the longest first; kinds with several kernels once for each.
fn bars(stages: &StageFigures) -> Vec<Bars> {
    let mut all: Vec<Bars> = Vec::new();
    for (kind, name) in stages.kinds.iter().zip(stages.names()) {
        match all.iter_mut().find(|bars| bars.name == name) {
            Some(bars) => {
                bars.predicted_us += kind.predicted_us;
                bars.measured_us += kind.measured_us;
            }
            None => all.push(Bars {
                name,
                predicted_us: kind.predicted_us,
                measured_us: kind.measured_us,
            }),
        }
    }
    let length = |bars: &Bars| bars.predicted_us.max(bars.measured_us);
    all.sort_by(|a, b| length(b).total_cmp(&length(a)));
    if all.len() > KINDS {
        let others = all.split_off(KINDS - 1);
        all.push(Bars {
            name: format!("{} others", others.len()),
            predicted_us: others.iter().map(|bars| bars.predicted_us).sum(),
            measured_us: others.iter().map(|bars| bars.measured_us).sum(),
        });
    }
    all
}

fn draw_bars(stages: &StageFigures, bars: &[Bars], area: &Area<'_>) -> Result<(), PlotError> {
    let longest = bars
        .iter()
        .map(|bars| bars.predicted_us.max(bars.measured_us))
        .fold(1e-9, f64::max);
    let title = format!(
        "a step of {} x {} rows behind {} positions, {} cache: {} µs; predicted {} µs, measured by kind {} µs",
        stages.n_parallel,
        stages.n_rows,
        stages.n_depth,
        stages.cache,
        figures(stages.step_us),
        figures(stages.predicted_us),
        figures(stages.measured_us)
    );
    // names stand left of zero, the longest kind on top
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(44)
        .build_cartesian_2d(-0.28 * longest..1.05 * longest, bars.len() as f64..0.0)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("µs, all launches of the kind together")
        .x_label_formatter(&|time| match *time {
            time if time < 0.0 => String::new(),
            time => format!("{time:.*}", if longest < 10.0 { 2 } else { 0 }),
        })
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    let style = ("sans-serif", 13)
        .into_text_style(area)
        .pos(Pos::new(HPos::Right, VPos::Center));
    let names = bars.iter().enumerate().map(|(row, bars)| {
        let place = (-0.01 * longest, row as f64 + 0.5);
        Text::new(bars.name.clone(), place, style.clone())
    });
    chart.draw_series(names).map_err(failed)?;
    type Length = fn(&Bars) -> f64;
    let columns: [(&str, Length, RGBColor, f64); 2] = [
        ("predicted", |bars| bars.predicted_us, RGBColor(0xb8, 0xb8, 0xb8), 0.12),
        ("measured", |bars| bars.measured_us, COLOURS[0], 0.5),
    ];
    for (name, length, colour, from) in columns {
        let rectangles = bars.iter().enumerate().map(|(row, bars)| {
            let top = row as f64 + from;
            Rectangle::new([(0.0, top), (length(bars), top + 0.38)], colour.filled())
        });
        let drawn = chart.draw_series(rectangles).map_err(failed)?;
        drawn
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{DeviceFacts, FORMAT, ModelFacts, StageKind, StartFigures, TestKey};
    use crate::bench::roofline::Roofline;

    /// Answers at two depths for each type; a prompt; a roofline at twice what the f16 answers reach.
    fn results() -> Results {
        let mut tests = Vec::new();
        for (cache, speed) in [("f16", 100u64), ("f32", 50)] {
            for (prompt, answer, depth) in [(64, 0, 0), (0, 8, 4096), (0, 8, 0)] {
                let key = TestKey {
                    n_prompt: prompt,
                    n_gen: answer,
                    n_rows: 0,
                    n_depth: depth,
                    n_parallel: 1,
                    n_ubatch: 512,
                    type_k: cache.to_owned(),
                    type_v: cache.to_owned(),
                };
                let speed = speed - depth as u64 / 1024;
                let samples = [speed - 1, speed, speed + 1].map(|speed| 8_000_000_000 / speed);
                tests.push(Measured::new(key, 8, samples.to_vec(), (8000, 1), 200_000.0));
            }
        }
        let kinds = (0..20).map(|index| StageKind {
            kind: format!("kind<{index}>"),
            kernel: "gated threads=256".to_owned(),
            count: 2,
            bytes: 100,
            predicted_us: 10.0 + f64::from(index),
            measured_us: 20.0,
            bound: "memory".to_owned(),
        });
        Results {
            format: FORMAT.to_owned(),
            version: String::new(),
            model: ModelFacts {
                name: "a <model> & more".to_owned(),
                file: String::new(),
                bytes: 1,
                parameters: 1,
            },
            device: DeviceFacts {
                name: "card".to_owned(),
                target: "sm_90".to_owned(),
                units: 1,
            },
            exact: false,
            tuning: None,
            repetitions: 3,
            roofline: Roofline {
                buffer_bytes: 1,
                bytes_per_second: 200_000.0,
                spread_percent: 0.0,
                launch_us: 1.0,
            },
            start: StartFigures::default(),
            tests,
            stages: Some(StageFigures {
                n_parallel: 1,
                n_rows: 1,
                n_depth: 0,
                cache: "f16".to_owned(),
                predicted_us: 1.0,
                measured_us: 2.0,
                step_us: 3.0,
                kinds: kinds.collect(),
            }),
        }
    }

    /// Texts of a picture.
    fn texts(svg: &roxmltree::Document<'_>) -> Vec<String> {
        let texts = svg.descendants().filter(|node| node.has_tag_name("text"));
        texts.filter_map(|node| Some(node.text()?.trim().to_owned())).collect()
    }

    /// Corners of the lines of a colour, in pixels.
    fn lines(svg: &roxmltree::Document<'_>, colour: RGBColor) -> Vec<Vec<(f64, f64)>> {
        let RGBColor(r, g, b) = colour;
        let colour = format!("#{r:02X}{g:02X}{b:02X}");
        let lines = svg.descendants().filter(|node| node.has_tag_name("polyline"));
        let of_colour = lines.filter(|node| node.attribute("stroke") == Some(&colour));
        let points = |text: &str| -> Vec<(f64, f64)> {
            let pairs = text.split_whitespace().filter_map(|pair| pair.split_once(','));
            pairs
                .map(|(x, y)| (x.parse().expect("a number"), y.parse().expect("a number")))
                .collect()
        };
        of_colour
            .filter_map(|node| Some(points(node.attribute("points")?)))
            .collect()
    }

    #[test]
    fn a_line_for_each_type_and_a_bar_for_each_kind() {
        let svg = draw(&results()).expect("it is drawn");
        let svg = roxmltree::Document::parse(&svg).expect("well-formed");
        let texts = texts(&svg);
        for text in [
            "a <model> & more on card",
            "f16 cache, tg8",
            "f32 cache, tg8",
            "4000",
            "predicted",
            "measured",
        ] {
            assert!(texts.iter().any(|found| found == text), "no {text}: {texts:?}");
        }
        assert!(
            !texts.iter().any(|text| text.contains("pp64")),
            "prompts are left out beside answers: {texts:?}"
        );
        assert!(texts.iter().any(|text| text.contains("dashes")), "{texts:?}");
        // the line goes to the right and down, and faster answers are further up
        let line = |colour| lines(&svg, colour).into_iter().next().expect("a line");
        let (f16, f32) = (line(COLOURS[0]), line(COLOURS[1]));
        for line in [&f16, &f32] {
            assert_eq!(line.len(), 2, "a corner for each depth: {line:?}");
            assert!(line[0].0 < line[1].0 && line[0].1 < line[1].1, "{line:?}");
        }
        assert!(f16[0].1 < f32[0].1 && f16[1].1 < f32[1].1, "{f16:?} {f32:?}");
        // the longest ones by name, the rest in one bar
        let named = ["kind<19>", "kind<11>", "kind<0>", "kind<5>", "5 others"];
        for (kind, is_named) in named
            .map(|kind| (kind, true))
            .into_iter()
            .chain([("kind<6>", false), ("kind<10>", false)])
        {
            assert_eq!(texts.iter().any(|found| found == kind), is_named, "{kind}: {texts:?}");
        }
    }

    #[test]
    fn prompts_where_there_are_no_answers() {
        let mut results = results();
        results.tests.retain(|test| test.key.n_gen == 0);
        results.stages = None;
        let svg = draw(&results).expect("it is drawn");
        let texts = texts(&roxmltree::Document::parse(&svg).expect("well-formed"));
        assert!(texts.iter().any(|text| text == "f16 cache, pp64"), "{texts:?}");
        assert!(!texts.iter().any(|text| text == "measured"), "{texts:?}");
        results.tests.clear();
        let svg = draw(&results).expect("an empty frame");
        roxmltree::Document::parse(&svg).expect("well-formed");
    }
}
