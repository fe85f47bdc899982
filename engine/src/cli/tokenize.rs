//! `tilekiln tokenize`

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Failure, print, print_json};
use crate::gguf::File;
use crate::tokenizer::{Control, Special, Tokenizer};

/// Show text as tokens, or tokens as text
#[derive(Args)]
pub struct Tokenize {
    /// Model file (GGUF); only its tokenizer is read
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    model: PathBuf,
    /// Text to encode; standard input when left out
    #[arg(conflicts_with_all = ["file", "decode"])]
    text: Option<String>,
    /// Encode the text of a file
    #[arg(long, value_name = "FILE", conflicts_with = "decode")]
    file: Option<PathBuf>,
    /// Decode these tokens instead
    #[arg(long, value_name = "ID,…", value_delimiter = ',', num_args = 1..)]
    decode: Option<Vec<u32>>,
    /// Leave out <bos> at the start
    #[arg(long, conflicts_with = "decode")]
    no_bos: bool,
    /// Take the texts of control tokens literally; with --decode, leave control tokens out
    #[arg(long)]
    no_special: bool,
    /// Print as JSON
    #[arg(long, conflicts_with_all = ["ids", "pieces"])]
    json: bool,
    /// Print only the ids, separated by commas
    #[arg(long, conflicts_with_all = ["pieces", "decode"])]
    ids: bool,
    /// Print only the pieces, one a line, as JSON strings
    #[arg(long, conflicts_with = "decode")]
    pieces: bool,
}

#[derive(Serialize)]
struct Token<'a> {
    id: u32,
    piece: std::borrow::Cow<'a, str>,
}

#[derive(Serialize)]
struct Encoded<'a> {
    count: usize,
    tokens: Vec<Token<'a>>,
}

#[derive(Serialize)]
struct Decoded {
    text: String,
}

impl Tokenize {
    pub fn run(self) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
        let file = File::open(&self.model).map_err(|error| failed(&error))?;
        let tokenizer = Tokenizer::from_gguf(file.metadata())
            .map_err(|error| Failure::Failed(format!("{}: {error}", self.model.display())))?;
        match &self.decode {
            Some(tokens) => self.decode(&tokenizer, tokens),
            None => self.encode(&tokenizer),
        }
    }

    fn encode(&self, tokenizer: &Tokenizer) -> Result<(), Failure> {
        let text = self.input()?;
        let special = if self.no_special {
            Special::Literal
        } else {
            Special::Parse
        };
        let tokens = match self.no_bos {
            true => tokenizer.encode(&text, special),
            false => tokenizer.encode_with_bos(&text, special),
        };
        if !self.no_bos && tokens.get(1) == Some(&tokenizer.bos()) {
            eprintln!("tilekiln: the text begins with <bos> itself, so there are two; --no-bos leaves the first out");
        }
        let piece = |id: u32| tokenizer.token_text(id).unwrap_or_default();
        if self.json {
            let tokens: Vec<Token<'_>> = tokens.iter().map(|&id| Token { id, piece: piece(id) }).collect();
            return print_json(&Encoded {
                count: tokens.len(),
                tokens,
            });
        }
        let mut out = String::new();
        if self.ids {
            let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
            out = ids.join(",") + "\n";
        } else {
            for &id in &tokens {
                // As JSON, so that newlines and quotes do not break lines.
                let piece = serde_json::Value::from(piece(id)).to_string();
                match self.pieces {
                    true => out.push_str(&format!("{piece}\n")),
                    false => out.push_str(&format!("{id:>7}  {piece}\n")),
                }
            }
        }
        print(&out)
    }

    fn decode(&self, tokenizer: &Tokenizer, tokens: &[u32]) -> Result<(), Failure> {
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= tokenizer.len()) {
            return Err(Failure::Usage(format!(
                "token {token} does not exist; the vocabulary has {} tokens",
                tokenizer.len()
            )));
        }
        let control = if self.no_special { Control::Hide } else { Control::Show };
        let text = tokenizer.decode(tokens, control);
        match self.json {
            true => print_json(&Decoded { text }),
            false => print(&format!("{text}\n")),
        }
    }

    fn input(&self) -> Result<String, Failure> {
        if let Some(text) = &self.text {
            return Ok(text.clone());
        }
        let (name, bytes) = match &self.file {
            Some(path) => (path.display().to_string(), std::fs::read(path)),
            None => {
                let mut bytes = Vec::new();
                let read = std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes);
                ("standard input".to_owned(), read)
            }
        };
        let bytes = bytes.map_err(|error| Failure::Failed(format!("cannot read {name}: {error}")))?;
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::Failed(format!("{name} is not UTF-8: byte {at} begins no character"))
        })
    }
}
