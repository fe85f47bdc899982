//! Unique C++ names from the author's names.

use std::collections::HashSet;

/// Names that are visible, innermost scope last.
pub(crate) struct Names {
    reserved: HashSet<&'static str>,
    scopes: Vec<HashSet<String>>,
}

impl Names {
    /// A file scope with names that nobody may take.
    pub fn new(reserved: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            reserved: reserved.into_iter().collect(),
            scopes: vec![HashSet::new()],
        }
    }

    /// Enters a `{`.
    pub fn open(&mut self) {
        self.scopes.push(HashSet::new());
    }

    /// Leaves at a `}`.
    pub fn close(&mut self) {
        self.scopes.pop();
    }

    /// Takes exactly this name.
    pub fn take(&mut self, name: &str) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_string());
        }
    }

    /// A name for the present scope: the author's, with `_2`, `_3`, … only if that is visible already.
    pub fn declare(&mut self, wanted: &str) -> String {
        let base = identifier(wanted);
        let base = if self.reserved.contains(base.as_str()) {
            base + "_"
        } else {
            base
        };
        let mut name = base.clone();
        let mut number = 1;
        while self.visible(&name) {
            number += 1;
            name = format!("{base}_{number}");
        }
        self.take(&name);
        name
    }

    /// Whether the language keeps a name for itself.
    pub fn is_reserved(&self, name: &str) -> bool {
        self.reserved.contains(name)
    }

    fn visible(&self, name: &str) -> bool {
        self.reserved.contains(name) || self.scopes.iter().any(|scope| scope.contains(name))
    }
}

/// A C++ identifier from a Rust one.
fn identifier(name: &str) -> String {
    let plain = name.strip_prefix("r#").unwrap_or(name);
    let mut out: String = plain
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' })
        .collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, 'v');
    }
    // A leading double underscore or underscore and capital belongs to the compiler.
    if out.starts_with("__") || (out.starts_with('_') && out[1..].starts_with(|c: char| c.is_ascii_uppercase())) {
        out = format!("v{out}");
    }
    out
}
