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
        let mut start = 0;
        if !text.starts_with("//") && !text.starts_with('#') {
            let breaks = break_points(text);
            while margin.len() + text.len() - start > WIDTH {
                let Some(cut) = best_break(&breaks, start, WIDTH.saturating_sub(margin.len())) else {
                    break;
                };
                self.lines
                    .push((format!("{margin}{}", text[start..cut].trim_end()), at));
                start = cut;
                margin = "    ".repeat(self.indent + 2);
            }
        }
        let line = format!("{margin}{}", &text[start..]);
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

    /// Whether the code, comments aside, has this name somewhere.
    pub fn mentions(&self, name: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.lines.iter().any(|(line, _)| {
            let code = line.split("//").next().unwrap_or_default();
            code.split(|c: char| !is_part(c)).any(|word| word == name)
        })
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

/// A place where a line may be broken: where the next line would start, and how much breaking there hurts.
struct Break {
    at: usize,
    cost: (u8, usize, u8),
}

/// Where a line may be broken. Commas of the outermost call hurt least, then operators by how loosely they
/// bind; inside indices and between factors only if nothing else helps.
fn break_points(text: &str) -> Vec<Break> {
    const OPERATORS: [(&str, u8); 12] = [
        (": ", 1),
        ("? ", 2),
        ("|| ", 3),
        ("&& ", 4),
        ("| ", 5),
        ("^ ", 5),
        ("& ", 5),
        ("+ ", 6),
        ("- ", 6),
        ("* ", 7),
        ("/ ", 7),
        ("% ", 7),
    ];
    let bytes = text.as_bytes();
    let mut open: Vec<u8> = Vec::new();
    let mut breaks = Vec::new();
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => open.push(byte),
            b')' | b']' | b'}' => drop(open.pop()),
            b' ' if at > 0 => {
                let rest = &text[at + 1..];
                let rank = if matches!(bytes[at - 1], b',' | b';') {
                    Some(0)
                } else {
                    OPERATORS
                        .iter()
                        .find(|(token, _)| rest.starts_with(token))
                        .map(|(_, rank)| *rank)
                };
                if let Some(rank) = rank {
                    let class = match (open.contains(&b'['), rank) {
                        (false, 0..7) => 0,
                        (true, 0) => 1,
                        (false, _) => 2,
                        (true, _) => 3,
                    };
                    breaks.push(Break {
                        at: at + 1,
                        cost: (class, open.len(), rank),
                    });
                }
            }
            _ => {}
        }
    }
    breaks
}

/// The last of the cheapest breaks within `width` characters behind `start`.
fn best_break(breaks: &[Break], start: usize, width: usize) -> Option<usize> {
    let reach = breaks
        .iter()
        .filter(|place| place.at > start + 8 && place.at <= start + width + 1);
    reach.rev().min_by_key(|place| place.cost).map(|place| place.at)
}
