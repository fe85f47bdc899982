//! `tilekiln inspect`

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{Failure, print, print_json};
use crate::gguf::{self, Array, File, TensorInfo, TensorType, Value};

/// Entries of an array that are shown unless all are asked for.
const ENTRIES: usize = 6;

/// Characters of a text that are shown unless all are asked for.
const CHARACTERS: usize = 60;

/// Show the metadata and the tensors of a GGUF file
#[derive(Args)]
pub struct Inspect {
    /// A GGUF file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Metadata only
    #[arg(long, conflicts_with = "tensors")]
    metadata: bool,
    /// Tensors only
    #[arg(long)]
    tensors: bool,
    /// Show long arrays and texts in full
    #[arg(long)]
    full: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl From<gguf::Error> for Failure {
    fn from(error: gguf::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Tensors of one type, together.
#[derive(Serialize)]
struct Total {
    #[serde(rename = "type")]
    kind: String,
    tensors: usize,
    values: usize,
    /// None when the type is unknown.
    bytes: Option<usize>,
    bits_per_value: Option<f64>,
    /// Whether this engine computes with the type.
    computable: bool,
}

/// Sums by type, the largest first.
fn totals(file: &File) -> Vec<Total> {
    let mut kinds: Vec<TensorType> = file.tensors().iter().map(|tensor| tensor.kind).collect();
    kinds.sort();
    kinds.dedup();
    let total = |kind: TensorType| {
        let tensors = || file.tensors().iter().filter(|tensor| tensor.kind == kind);
        Total {
            kind: kind.to_string(),
            tensors: tensors().count(),
            values: tensors().fold(0, |sum, tensor| sum.saturating_add(tensor.values())),
            bytes: tensors().map(|tensor| tensor.bytes).sum(),
            bits_per_value: kind.bits_per_value(),
            computable: kind.codec().is_some(),
        }
    };
    let mut totals: Vec<Total> = kinds.into_iter().map(total).collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.bytes));
    totals
}

/// What a user of the file should know.
fn notes(file: &File) -> Result<Vec<String>, Failure> {
    let mut notes = Vec::new();
    let named = |prefixes: &[&str]| {
        let starts = |tensor: &&TensorInfo| prefixes.iter().any(|prefix| tensor.name.starts_with(prefix));
        file.tensors().iter().filter(starts).count()
    };
    for (what, prefixes) in [
        ("vision", &["v."][..]),
        ("audio", &["a."]),
        ("projection of images or sound", &["mm."]),
    ] {
        match named(prefixes) {
            0 => {}
            count => notes.push(format!(
                "{count} tensors for {what}: this engine reads text and skips them"
            )),
        }
    }
    for total in totals(file)
        .iter()
        .filter(|total| !total.computable && total.kind != "I32")
    {
        notes.push(format!(
            "{} tensors of type {}, which this engine does not compute with; models that need them must be quantised to \
             another type",
            total.tensors, total.kind
        ));
    }
    if let Some(parts) = file.metadata().u32("split.count")?.filter(|&parts| parts > 1) {
        notes.push(format!(
            "one of {parts} parts of a model; join them into one file first"
        ));
    }
    Ok(notes)
}

/// A text on one line: control characters are escaped, the end is cut.
fn one_line(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    // The replacement character is what bytes without a meaning became.
    let escaped = escaped(text.chars().take(limit));
    match text.chars().count() > limit {
        true => format!("\"{escaped}\" ... ({} bytes)", bytes.len()),
        false => format!("\"{escaped}\""),
    }
}

impl Inspect {
    fn limit(&self, limit: usize) -> usize {
        if self.full { usize::MAX } else { limit }
    }

    fn type_name(&self, value: Value<'_>) -> String {
        match value {
            Value::Array(array) => format!("{}[{}]", array.kind(), array.len()),
            other => other.kind().to_string(),
        }
    }

    fn value_text(&self, value: Value<'_>) -> String {
        match value {
            Value::String(text) => one_line(text, self.limit(CHARACTERS)),
            Value::Bool(value) => value.to_string(),
            Value::F32(value) => value.to_string(),
            Value::F64(value) => value.to_string(),
            Value::Array(array) => self.array_text(array),
            integer => integer.integer().unwrap_or_default().to_string(),
        }
    }

    fn array_text(&self, array: Array<'_>) -> String {
        if array.kind() == gguf::ValueType::Array {
            return "arrays in an array".into();
        }
        let entry = |value| match value {
            Value::String(text) => one_line(text, self.limit(CHARACTERS / 3)),
            other => self.value_text(other),
        };
        let shown: Vec<String> = array.values().take(self.limit(ENTRIES)).map(entry).collect();
        let more = if shown.len() < array.len() { ", ..." } else { "" };
        format!("{}{more}", shown.join(", "))
    }

    fn value_json(&self, value: Value<'_>) -> Json {
        // JSON has no infinities
        let float = |value: f64| match value.is_finite() {
            true => json!(value),
            false => json!(value.to_string()),
        };
        match value {
            Value::String(text) => json!(String::from_utf8_lossy(text)),
            Value::Bool(value) => json!(value),
            // through its shortest text: 0.1 stays 0.1
            Value::F32(value) => float(value.to_string().parse().unwrap_or(f64::from(value))),
            Value::F64(value) => float(value),
            Value::U64(value) => json!(value),
            Value::I64(value) => json!(value),
            Value::Array(array) => {
                let shown = array.values().take(self.limit(ENTRIES));
                shown.map(|value| self.value_json(value)).collect()
            }
            integer => json!(integer.integer().and_then(|value| i64::try_from(value).ok())),
        }
    }

    fn json(&self, file: &File) -> Result<Json, Failure> {
        let mut root = json!({
            "file": self.file,
            "version": file.version(),
            "bytes": file.size(),
            "alignment": file.alignment(),
            "data_start": file.data_start(),
            "notes": notes(file)?,
        });
        if !self.tensors {
            let metadata = file.metadata().iter().map(|field| {
                let mut entry = json!({
                    "key": field.key(),
                    "type": self.type_name(field.value()),
                    "value": self.value_json(field.value()),
                });
                if let Value::Array(array) = field.value() {
                    entry["count"] = json!(array.len());
                }
                entry
            });
            root["metadata"] = metadata.collect();
        }
        if !self.metadata {
            let tensors = file.tensors().iter().map(|tensor| {
                json!({
                    "name": tensor.name,
                    "type": tensor.kind.to_string(),
                    "dims": tensor.dims,
                    "offset": tensor.offset,
                    "bytes": tensor.bytes,
                    "bits_per_value": tensor.kind.bits_per_value(),
                })
            });
            root["tensors"] = tensors.collect();
            root["totals"] = json!(totals(file));
        }
        Ok(root)
    }

    fn text(&self, file: &File) -> Result<String, Failure> {
        let mut text = format!(
            "{}: GGUF version {}, {}, {} keys, {} tensors, aligned to {}, data from byte {}\n",
            self.file.display(),
            file.version(),
            BinaryBytes(file.size() as u64),
            file.metadata().len(),
            file.tensors().len(),
            file.alignment(),
            file.data_start(),
        );
        if !self.tensors {
            let rows = file.metadata().iter().map(|field| {
                let (kind, value) = (self.type_name(field.value()), self.value_text(field.value()));
                [escaped(field.key().chars()), kind, value]
            });
            text.push_str("\nmetadata\n");
            text.push_str(&table(&rows.collect::<Vec<_>>(), ["", "", ""]));
        }
        if !self.metadata {
            let rows = file.tensors().iter().map(|tensor| {
                let dims: Vec<String> = tensor.dims.iter().map(usize::to_string).collect();
                [
                    escaped(tensor.name.chars()),
                    tensor.kind.to_string(),
                    dims.join(" x "),
                    bytes_text(tensor.bytes),
                    bits_text(tensor.kind.bits_per_value()),
                ]
            });
            text.push_str("\ntensors: type, dimensions (innermost first), size, bits per weight\n");
            text.push_str(&table(&rows.collect::<Vec<_>>(), ["", "", ">", ">", ">"]));
            let totals = totals(file);
            let mut rows: Vec<_> = totals
                .iter()
                .map(|total| total_row(&total.kind, total.tensors, total.values, total.bytes))
                .collect();
            let values = totals
                .iter()
                .fold(0, |sum: usize, total| sum.saturating_add(total.values));
            let bytes = totals.iter().map(|total| total.bytes).sum();
            rows.push(total_row("all", file.tensors().len(), values, bytes));
            text.push_str("\ntotals: tensors, weights, size, bits per weight\n");
            text.push_str(&table(&rows, ["", ">", ">", ">", ">"]));
        }
        for note in notes(file)? {
            let _ = write!(text, "\nnote: {note}\n");
        }
        Ok(text)
    }

    pub fn run(self) -> Result<(), Failure> {
        let file = File::open(&self.file)?;
        match self.json {
            true => print_json(&self.json(&file)?),
            false => print(&self.text(&file)?),
        }
    }
}

/// Characters from a file, harmless on a terminal.
fn escaped(characters: impl Iterator<Item = char>) -> String {
    let mut text = String::new();
    for character in characters {
        match character {
            '\'' => text.push(character),
            _ => text.extend(character.escape_debug()),
        }
    }
    text
}

fn bytes_text(bytes: Option<usize>) -> String {
    bytes.map_or("?".into(), |bytes| BinaryBytes(bytes as u64).to_string())
}

fn bits_text(bits: Option<f64>) -> String {
    bits.map_or("?".into(), |bits| format!("{bits:.3}"))
}

fn total_row(kind: &str, tensors: usize, values: usize, bytes: Option<usize>) -> [String; 5] {
    let bits = bytes
        .filter(|_| values > 0)
        .map(|bytes| bytes as f64 * 8.0 / values as f64);
    [
        kind.into(),
        tensors.to_string(),
        values.to_string(),
        bytes_text(bytes),
        bits_text(bits),
    ]
}

/// Rows in aligned columns; `>` is for columns of numbers.
fn table<const N: usize>(rows: &[[String; N]], alignment: [&str; N]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            let _ = match alignment[column] {
                ">" => write!(line, " {cell:>width$} ", width = widths[column]),
                _ => write!(line, " {cell:<width$} ", width = widths[column]),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
