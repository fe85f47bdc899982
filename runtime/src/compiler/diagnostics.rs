//! Errors and warnings in the logs of NVRTC, ptxas and clang.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// No binary.
    Error,
    /// A binary, and a reason to look.
    Warning,
}

/// One line of a log that reports an error or a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// File as the compiler names it; empty when it names none.
    pub file: String,
    /// 1-based line in that file.
    pub line: Option<usize>,
    /// 1-based column, where the compiler says.
    pub column: Option<usize>,
    /// What it says.
    pub message: String,
}

/// Words that introduce a message. Longer ones first: `error` is the end of `fatal error`.
const LABELS: &[(&str, Severity)] = &[
    ("catastrophic error", Severity::Error),
    ("internal error", Severity::Error),
    ("fatal error", Severity::Error),
    ("error", Severity::Error),
    ("fatal", Severity::Error),
    ("warning", Severity::Warning),
];

/// All errors and warnings, in order.
pub(super) fn parse(log: &str) -> Vec<Diagnostic> {
    log.lines().filter_map(line).collect()
}

/// `k.cu(3): error: …`, `k.cu(3): warning #177-D: …` (NVRTC), `k.hip:3:5: error: …` (clang),
/// `ptxas warning : …`, `ptxas k.ptx, line 3; error : …`, `error: …` (either, about no line).
fn line(text: &str) -> Option<Diagnostic> {
    for (label, severity) in LABELS {
        for (at, _) in text.match_indices(label) {
            let before = &text[..at];
            let after = &text[at + label.len()..];
            let Some(message) = after_label(after) else {
                continue;
            };
            let Some((file, line, column)) = place(before) else {
                continue;
            };
            return Some(Diagnostic {
                severity: *severity,
                file,
                line,
                column,
                message: message.trim().to_string(),
            });
        }
    }
    None
}

/// What follows the colon after `error`, `error `, `error #20-D`, `error C7919 `.
fn after_label(after: &str) -> Option<&str> {
    let (between, message) = after.split_once(':')?;
    let number = between.trim().trim_start_matches(['#', 'C']);
    let number = number.strip_suffix("-D").unwrap_or(number);
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(message)
}

/// File, line and column in front of the label; `None` when the label stands in the middle of a sentence.
fn place(before: &str) -> Option<(String, Option<usize>, Option<usize>)> {
    let before = before.trim_end();
    if before.is_empty() || before == "ptxas" || before == "nvrtc:" || before == "lld:" || before == "ld.lld:" {
        return Some((String::new(), None, None));
    }
    // NVRTC: `file(line):`
    if let Some((file, line)) = before.strip_suffix("):").and_then(|rest| rest.rsplit_once('(')) {
        return line.parse().ok().map(|line| (file.to_string(), Some(line), None));
    }
    // ptxas: `ptxas file, line 3;` counts lines of the PTX, which nobody has seen.
    if before.starts_with("ptxas ") && before.ends_with(';') {
        return Some((String::new(), None, None));
    }
    // clang: `file:line:column:` or `file:line:`
    let (rest, last) = before.strip_suffix(':')?.rsplit_once(':')?;
    let last: usize = last.trim().parse().ok()?;
    match rest.rsplit_once(':').map(|(file, line)| (file, line.parse::<usize>())) {
        Some((file, Ok(line))) => Some((file.to_string(), Some(line), Some(last))),
        _ => Some((rest.to_string(), Some(last), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_every_compiler() {
        type Expected = Option<(Severity, &'static str, Option<usize>, Option<usize>, &'static str)>;
        use Severity::{Error, Warning};
        let cases: &[(&str, Expected)] = &[
            (
                "norm.cu(13): error: identifier \"w\" is undefined",
                Some((Error, "norm.cu", Some(13), None, "identifier \"w\" is undefined")),
            ),
            (
                "norm.cu(7): warning #177-D: variable \"x\" was declared but never referenced",
                Some((
                    Warning,
                    "norm.cu",
                    Some(7),
                    None,
                    "variable \"x\" was declared but never referenced",
                )),
            ),
            (
                "norm.cu(1): catastrophic error: cannot open source file \"no.h\"",
                Some((Error, "norm.cu", Some(1), None, "cannot open source file \"no.h\"")),
            ),
            (
                "/tmp/a b/input/norm.hip:13:7: error: use of undeclared identifier 'w'",
                Some((
                    Error,
                    "/tmp/a b/input/norm.hip",
                    Some(13),
                    Some(7),
                    "use of undeclared identifier 'w'",
                )),
            ),
            (
                "norm.hip:3:10: fatal error: 'no.h' file not found",
                Some((Error, "norm.hip", Some(3), Some(10), "'no.h' file not found")),
            ),
            (
                "norm.hip:3:1: warning: unused",
                Some((Warning, "norm.hip", Some(3), Some(1), "unused")),
            ),
            (
                "ptxas warning : Registers are spilled",
                Some((Warning, "", None, None, "Registers are spilled")),
            ),
            (
                "ptxas fatal   : Unresolved extern function 'f'",
                Some((Error, "", None, None, "Unresolved extern function 'f'")),
            ),
            (
                "ptxas norm.ptx, line 30; error   : Unknown symbol",
                Some((Error, "", None, None, "Unknown symbol")),
            ),
            (
                "ptxas error   : Entry function 'f' uses too much shared data",
                Some((Error, "", None, None, "Entry function 'f' uses too much shared data")),
            ),
            ("error: no such option", Some((Error, "", None, None, "no such option"))),
            ("1 error detected in the compilation of \"norm.cu\".", None),
            ("1 error generated when compiling for gfx1150.", None),
            ("ptxas info    : Used 10 registers, used 0 barriers", None),
            ("    float error: 3;", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let found = line(text);
            let found = found
                .as_ref()
                .map(|d| (d.severity, d.file.as_str(), d.line, d.column, d.message.as_str()));
            assert_eq!(found, *expected, "{text}");
        }
    }
}
