//! What a rejected text looks like.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tilekiln_codegen::Generated;
use tilekiln_dsl::ir::Location;

use super::diagnostics::{Diagnostic, Severity, parse};

/// Generated lines shown before and after the one with the error.
const CONTEXT: usize = 2;
/// Errors shown with their lines; the log has them all.
const SHOWN: usize = 6;

/// A vendor compiler rejected generated text.
///
/// Its display shows, for each error, the DSL line it comes from and the numbered generated lines around
/// it, then the compiler's log, then where the text was kept.
#[derive(Clone, Debug)]
pub struct CompileError {
    /// Compiler and version.
    pub compiler: String,
    /// Symbol of the kernel.
    pub symbol: String,
    /// Name of the generated file.
    pub file_name: String,
    /// Architecture asked for.
    pub architecture: String,
    /// The compiler's error code in words, or why it was not called.
    pub reason: String,
    /// What the compiler said.
    pub log: String,
    /// The errors of the log.
    pub errors: Vec<Located>,
    /// The rejected text on disk.
    pub kept: Option<PathBuf>,
    /// Why it could not be kept.
    pub not_kept: Option<String>,
    /// The way out, where it is known.
    pub hint: Option<String>,
}

/// One error with its place in the generated text and in the DSL.
#[derive(Clone, Debug)]
pub struct Located {
    /// What the compiler says.
    pub diagnostic: Diagnostic,
    /// Where in the DSL the line comes from.
    pub at: Option<Location>,
    /// Numbered generated lines around it; the line itself is marked.
    pub excerpt: String,
}

impl CompileError {
    pub(super) fn new(
        compiler: &str,
        generated: &Generated,
        architecture: &str,
        reason: String,
        log: String,
    ) -> Box<Self> {
        let folder = std::env::temp_dir().join("tilekiln-failed");
        let (kept, not_kept) = match keep(&folder, generated) {
            Ok(path) => (Some(path), None),
            Err(error) => (None, Some(format!("{}: {error}", folder.display()))),
        };
        let errors = parse(&log)
            .into_iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .map(|diagnostic| locate(diagnostic, generated))
            .collect();
        Box::new(Self {
            compiler: compiler.to_string(),
            symbol: generated.symbol.clone(),
            file_name: generated.file_name.clone(),
            architecture: architecture.to_string(),
            reason,
            log,
            errors,
            kept,
            not_kept,
            hint: None,
        })
    }

    pub(super) fn with_hint(mut self: Box<Self>, hint: Option<String>) -> Box<Self> {
        self.hint = hint;
        self
    }
}

/// Finds the DSL line and the text around an error, when it is about the generated file.
fn locate(diagnostic: Diagnostic, generated: &Generated) -> Located {
    let ours = Path::new(&diagnostic.file)
        .file_name()
        .is_some_and(|name| name == generated.file_name.as_str());
    let line = diagnostic.line.filter(|&line| ours && line > 0);
    // Lines that the writer adds by itself (a brace, an include) belong to what was written before them.
    let at = line.and_then(|line| {
        let upto = line.min(generated.lines.len());
        generated.lines[..upto].iter().rev().find_map(|at| *at)
    });
    let excerpt = line
        .map(|line| excerpt(&generated.text, line, diagnostic.column))
        .unwrap_or_default();
    Located {
        diagnostic,
        at,
        excerpt,
    }
}

fn excerpt(text: &str, line: usize, column: Option<usize>) -> String {
    use fmt::Write;
    let mut out = String::new();
    let first = line.saturating_sub(CONTEXT).max(1);
    let width = (line + CONTEXT).to_string().len();
    for (number, content) in text.lines().enumerate().map(|(at, content)| (at + 1, content)) {
        if number < first || number > line + CONTEXT {
            continue;
        }
        let mark = if number == line { '>' } else { ' ' };
        let _ = writeln!(out, "{mark} {number:width$} | {content}");
        if let (true, Some(column)) = (number == line, column) {
            // Tabs keep their width, so the caret stands under its character.
            let pad: String = content
                .chars()
                .take(column.saturating_sub(1))
                .map(|character| if character == '\t' { '\t' } else { ' ' })
                .collect();
            let _ = writeln!(out, "  {:width$} | {pad}^", "");
        }
    }
    out
}

/// Writes the rejected text to a folder for failures. The file name is the generated one, so the latest
/// failure of a kernel replaces the one before.
fn keep(folder: &Path, generated: &Generated) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let name = Path::new(&generated.file_name)
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the generated file has no name"))?;
    let path = folder.join(name);
    std::fs::write(&path, &generated.text)?;
    Ok(path)
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rejected {} for {}: {}",
            self.compiler, self.file_name, self.architecture, self.reason
        )?;
        for error in self.errors.iter().take(SHOWN) {
            writeln!(f, "\nerror: {}", error.diagnostic.message)?;
            if let Some(at) = error.at {
                writeln!(f, "  --> {at}")?;
            }
            if let (Some(line), false) = (error.diagnostic.line, error.excerpt.is_empty()) {
                writeln!(f, "  generated line {}:{line}", self.file_name)?;
                for line in error.excerpt.lines() {
                    writeln!(f, "  {line}")?;
                }
            }
        }
        if self.errors.len() > SHOWN {
            writeln!(f, "\n{} more errors in the log", self.errors.len() - SHOWN)?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "\nhelp: {hint}")?;
        }
        if self.log.trim().is_empty() {
            writeln!(f, "\nlog of {}: empty", self.compiler)?;
        } else {
            writeln!(f, "\nlog of {}:", self.compiler)?;
            for line in self.log.trim_end().lines() {
                writeln!(f, "  {line}")?;
            }
        }
        match (&self.kept, &self.not_kept) {
            (Some(path), _) => write!(f, "\nkept: {}", path.display()),
            (None, Some(reason)) => write!(f, "\nthe text could not be kept: {reason}"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for CompileError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::testing;

    #[test]
    fn shows_dsl_line_generated_lines_log_and_file() {
        let generated = testing::generated(
            "planted_error.cu",
            "sm_90",
            "line one\n\tline two\nline three\nline four\n",
        );
        let log = "planted_error.cu(2): error: identifier \"two\" is undefined\n\
                   cuda_fp16.h(7): error: something in a header\n";
        let error = CompileError::new(
            "NVRTC 13.0",
            &generated,
            "sm_90",
            "compilation failed".into(),
            log.into(),
        );
        let shown = error.to_string();
        for expected in [
            "NVRTC 13.0 rejected planted_error.cu for sm_90",
            "  --> kernels/testing.rs:102:5",
            "    1 | line one",
            "  > 2 | \tline two",
            "    4 | line four",
            "identifier \"two\" is undefined",
            "  cuda_fp16.h(7): error: something in a header",
            "tilekiln-failed",
        ] {
            assert!(shown.contains(expected), "`{expected}` is not in:\n{shown}");
        }
        let kept = error.kept.as_ref().expect("the temporary folder can be written");
        assert_eq!(std::fs::read_to_string(kept).expect("readable"), generated.text);
        assert!(error.errors[1].at.is_none(), "a header has no DSL line");
    }

    #[test]
    fn a_column_is_marked_under_its_character() {
        let shown = excerpt("a\n\tb = c;\nd\n", 2, Some(6));
        assert_eq!(shown, "  1 | a\n> 2 | \tb = c;\n    | \t    ^\n  3 | d\n");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_failure() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("occupied");
        std::fs::write(&file, "x").expect("written");
        let generated = testing::generated("k.cu", "sm_90", "text\n");
        assert!(keep(&file, &generated).is_err());
    }
}
