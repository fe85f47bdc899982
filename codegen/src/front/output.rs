//! Lines of the generated file, each with the author's line it comes from.

use tilekiln_dsl::ir::Location;

/// Lines longer than this are broken where they nest least.
pub(crate) const WIDTH: usize = 110;

/// The text so far.
#[derive(Default)]
pub(crate) struct Output {
    pub lines: Vec<(String, Option<Location>)>,
    indent: usize,
}

impl Output {
    /// One line at the present indentation.
    pub fn line(&mut self, text: impl AsRef<str>, at: Option<Location>) {
        let mut text = text.as_ref();
        let mut margin = "    ".repeat(self.indent);
        // A remark that does not fit behind its line goes above it.
        if let Some((code, remark)) = text.split_once("   // ")
            && margin.len() + text.len() > WIDTH
        {
            self.lines.push((format!("{margin}// {remark}"), at));
            text = code;
        }
        let mut rest = text;
        if !text.starts_with("//") && !text.starts_with('#') {
            while margin.len() + rest.len() > WIDTH {
                let Some(cut) = break_point(rest, WIDTH - margin.len()) else {
                    break;
                };
                self.lines.push((format!("{margin}{}", rest[..cut].trim_end()), at));
                rest = rest[cut..].trim_start();
                margin = "    ".repeat(self.indent + 1);
            }
        }
        let line = format!("{margin}{rest}");
        self.lines.push((line.trim_end().to_string(), at));
    }

    /// An empty line, unless the file so far ends with one or a block has just been opened.
    pub fn gap(&mut self) {
        let open = self.lines.last().is_none_or(|(line, _)| line.is_empty());
        if !open {
            self.lines.push((String::new(), None));
        }
    }

    /// A comment, one line per line of the text.
    pub fn comment(&mut self, text: &str, at: Option<Location>) {
        for line in text.lines() {
            self.line(format!("// {}", comment_text(line)).trim_end(), at);
        }
    }

    pub fn indent(&mut self) {
        self.indent += 1;
    }

    pub fn dedent(&mut self) {
        self.indent -= 1;
    }

    /// An empty output one level deeper.
    pub fn nested(&self) -> Output {
        Output {
            lines: Vec::new(),
            indent: self.indent + 1,
        }
    }

    /// An empty output at this level.
    pub fn sibling(&self) -> Output {
        Output {
            lines: Vec::new(),
            indent: self.indent,
        }
    }

    /// Whether it is one plain statement, which needs no braces.
    pub fn is_single_statement(&self) -> bool {
        match &self.lines[..] {
            [(line, _)] => line.ends_with(';') && !line.trim_start().starts_with("const ") && !line.contains("//"),
            _ => false,
        }
    }

    /// Another output whose first line is continued from `prefix`.
    pub fn append_joined(&mut self, prefix: &str, other: Output) {
        let margin = "    ".repeat(self.indent);
        let mut lines = other.lines.into_iter();
        if let Some((first, at)) = lines.next() {
            self.lines.push((format!("{margin}{prefix}{}", first.trim_start()), at));
        }
        self.lines.extend(lines);
    }

    /// Everything printed by another output, as it is.
    pub fn append(&mut self, other: Output) {
        self.lines.extend(other.lines);
    }
}

/// Text that is safe behind `//`: one line, and no backslash at its end (it would continue the comment).
pub(crate) fn comment_text(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
        .trim_end_matches(['\\', ' ', '\t'])
        .trim_start()
        .to_string()
}

/// Where to break a line: the last place within `width` that is least deep in parentheses, after a comma or
/// before an operator.
fn break_point(text: &str, width: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut best: Option<(usize, usize)> = None;
    for (at, byte) in bytes.iter().enumerate().take(width) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b' ' if at > 8 => {
                let after_comma = bytes[at - 1] == b',';
                let operators = ["+ ", "- ", "* ", "/ ", "& ", "| ", "^ ", "&& ", "|| ", "? ", ": "];
                let before_operator = operators.iter().any(|op| text[at + 1..].starts_with(op));
                if (after_comma || before_operator) && best.is_none_or(|(_, d)| depth <= d) {
                    best = Some((at + 1, depth));
                }
            }
            _ => {}
        }
    }
    best.map(|(at, _)| at)
}
