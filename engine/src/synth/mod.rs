//! Synthetic models with true shapes and a known right answer.
//!
//! Weights are random, but greedy decoding walks a fixed cycle through the vocabulary, and the assistant predicts a
//! chosen fraction of its steps. Speed, memory traffic and acceptance are those of a trained model, and the right
//! output is known in closed form:
//!
//! * The output row of each word is the embedding of the word before it in the cycle. Random directions of thousands
//!   of values are nearly orthogonal, so that row wins by far.
//! * Blocks add little to the residual stream: the weights of their last norms are small ([`Options::noise`]).
//! * The assistant projects the embedding of the last token and ignores the hidden vector. Its output rows are the
//!   projected embeddings, in the right places for the words it is to predict, and exchanged among the others.
//! * Tokens that are no words share the embedding of a word and continue as it does, so a walk starts from any prompt.

mod config;
mod demo;
mod plan;
mod random;
mod rows;
mod vocabulary;
mod walk;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use config::{Assistant, CONFIGS, Config};
pub use demo::demo;
use plan::{Fill, Plan, Planned};
use random::Random;
use rows::Rows;
pub use vocabulary::FIRST_WORD;
pub use walk::Walk;

use crate::gguf::{self, CodecError, Output, TensorInfo, TensorType};

/// Centroids whose tokens the ordered head looks at.
const CENTROIDS_SEARCHED: usize = 32;

/// Bytes that one task writes.
const PIECE: usize = 4 << 20;

/// Blocks of random weights that are made once for each type and repeated.
const PATTERN_BLOCKS: usize = 1 << 18;

/// What can be chosen about a synthetic model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Fraction of tokens that the assistant predicts, 0 to 1.
    pub accept: f64,
    /// Weight of the last norm of every block: how far a block moves the residual stream.
    pub noise: f32,
    /// Another seed gives other weights and another cycle.
    pub seed: u64,
    /// Whether the assistant gets an ordered head beside the dense one, where the published model has one.
    pub centroids: bool,
    /// Whether files that are there are replaced.
    pub force: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accept: 0.75,
            noise: 0.02,
            seed: 4,
            centroids: false,
            force: false,
        }
    }
}

/// Why a synthetic model was not written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("an acceptance of {0} is not possible; it must lie between 0 and 1")]
    Accept(f64),
    #[error("noise of {0} is not possible; it must be 0 or more, and models walk their cycle up to about 0.05")]
    Noise(f32),
    #[error("{0} is there already; give --force to replace it, or another folder")]
    Exists(PathBuf),
    #[error("{path}: {error}")]
    Io {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{path}: the disk is full; {size} bytes are needed, free them or choose another folder")]
    Full { path: PathBuf, size: usize },
    #[error(transparent)]
    File(#[from] gguf::Error),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The files of a synthetic model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The target model.
    pub target: PathBuf,
    /// Its assistant.
    pub assistant: PathBuf,
    /// The token after each token, as a NumPy array of i64.
    pub next: PathBuf,
}

impl Files {
    /// The files of a model in a folder.
    pub fn new(config: &Config, folder: &Path) -> Self {
        let name = config.name;
        Self {
            target: folder.join(format!("{name}.gguf")),
            assistant: folder.join(format!("{name}-assistant.gguf")),
            next: folder.join(format!("{name}-pi.npy")),
        }
    }

    /// All of them.
    pub fn all(&self) -> [&Path; 3] {
        [&self.target, &self.assistant, &self.next]
    }
}

/// A synthetic model, decided but not written.
pub struct Model {
    config: &'static Config,
    options: Options,
    walk: Walk,
    plans: [Plan; 2],
    layouts: [gguf::Layout; 2],
}

impl Model {
    /// Decides everything about a model.
    ///
    /// # Errors
    /// When an option is impossible.
    pub fn new(config: &'static Config, options: Options) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&options.accept) {
            return Err(Error::Accept(options.accept));
        }
        if !(options.noise.is_finite() && options.noise >= 0.0) {
            return Err(Error::Noise(options.noise));
        }
        let plans = [plan::target(config, &options), plan::assistant(config, &options)];
        let layouts = [plans[0].writer.layout()?, plans[1].writer.layout()?];
        Ok(Self {
            config,
            options,
            walk: Walk::new(config.vocabulary, options.accept, options.seed),
            plans,
            layouts,
        })
    }

    /// The right answer.
    pub fn walk(&self) -> &Walk {
        &self.walk
    }

    /// Tensors of the target and of the assistant.
    pub fn tensors(&self) -> [&[TensorInfo]; 2] {
        [self.layouts[0].tensors(), self.layouts[1].tensors()]
    }

    /// Bytes of the target and of the assistant.
    pub fn sizes(&self) -> [usize; 2] {
        [self.layouts[0].size(), self.layouts[1].size()]
    }

    /// Writes the files into a folder, which is made when it is missing. `progress` is told of bytes as they are
    /// written, from any thread.
    ///
    /// # Errors
    /// When a file is there already and may not be replaced, or writing fails. Nothing half-written stays behind.
    pub fn write(&self, folder: &Path, progress: &(dyn Fn(usize) + Sync)) -> Result<Files, Error> {
        let files = Files::new(self.config, folder);
        if let Some(path) = files
            .all()
            .into_iter()
            .find(|path| path.exists() && !self.options.force)
        {
            return Err(Error::Exists(path.to_path_buf()));
        }
        fs::create_dir_all(folder).map_err(|error| failed(folder, 0, error))?;
        let with_centroids = self.options.centroids;
        let rows = Rows::new(self.config, &self.walk, self.options.seed, with_centroids)?;
        let patterns = self.patterns();
        let mut outputs = Vec::new();
        for (index, path) in [&files.target, &files.assistant].into_iter().enumerate() {
            let size = self.layouts[index].size();
            let output = self.layouts[index]
                .create(path)
                .map_err(|error| failed(path, size, error))?;
            self.fill(&self.plans[index], &output, &rows, &patterns, path, progress)?;
            outputs.push((output, path, size));
        }
        let next = files.next.with_extension("npy.part");
        write_npy(&next, self.walk.next())
            .and_then(|()| fs::rename(&next, &files.next))
            .map_err(|error| failed(&files.next, 0, error))?;
        for (output, path, size) in outputs {
            output.finish().map_err(|error| failed(path, size, error))?;
        }
        Ok(files)
    }

    /// Writes the files of both models into a folder without their random weights: holes are where these would be, which
    /// take no room on most disks. What launches are planned from is all there.
    ///
    /// # Errors
    /// When writing fails.
    pub fn outline(&self, folder: &Path) -> Result<Files, Error> {
        let files = Files::new(self.config, folder);
        let models = self.plans.iter().zip(&self.layouts);
        for ((plan, layout), path) in models.zip([&files.target, &files.assistant]) {
            let failed = |error| failed(path, layout.size(), error);
            let output = layout.create(path).map_err(failed)?;
            for (planned, info) in plan.tensors.iter().zip(layout.tensors()) {
                let mut row = Vec::new();
                match &planned.fill {
                    Fill::Constant(value) => gguf::encode(planned.kind, &vec![*value; planned.dims[0]], &mut row)?,
                    Fill::Values(values) => gguf::encode(planned.kind, values, &mut row)?,
                    _ => continue,
                }
                for index in 0..info.rows() {
                    output.write_at(info, index * row.len(), &row).map_err(failed)?;
                }
            }
            output.finish().map_err(failed)?;
        }
        Ok(files)
    }

    /// Random weights of every type that the files need, made once.
    fn patterns(&self) -> HashMap<TensorType, Vec<u8>> {
        let mut needed: HashMap<TensorType, usize> = HashMap::new();
        for tensor in self.plans.iter().flat_map(|plan| &plan.tensors) {
            if let (Fill::Random(_), Some(block)) = (&tensor.fill, tensor.kind.block_values()) {
                *needed.entry(tensor.kind).or_default() += tensor.dims.iter().product::<usize>() / block;
            }
        }
        let pattern = |(kind, blocks): (TensorType, usize)| {
            let (values, bytes) = (kind.block_values().unwrap_or(1), kind.block_bytes().unwrap_or(1));
            // plain numbers: as many values as the blocks of other types hold
            let limit = if values == 1 {
                PATTERN_BLOCKS * 16
            } else {
                PATTERN_BLOCKS
            };
            let mut pattern = vec![0; blocks.min(limit) * bytes];
            pattern
                .par_chunks_mut(bytes << 12)
                .enumerate()
                .for_each(|(index, chunk)| {
                    Random::new(self.options.seed, kind.name(), index).blocks(kind, plan::DEVIATION, chunk);
                });
            (kind, pattern)
        };
        needed.into_iter().map(pattern).collect()
    }

    fn fill(
        &self,
        plan: &Plan,
        output: &Output,
        rows: &Rows<'_>,
        patterns: &HashMap<TensorType, Vec<u8>>,
        path: &Path,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<(), Error> {
        let mut pieces = Vec::new();
        for (planned, info) in plan.tensors.iter().zip(output.layout().tensors()) {
            let per_piece = (PIECE / info.row_bytes().unwrap_or(1)).max(1);
            for first in (0..info.rows()).step_by(per_piece) {
                pieces.push((planned, info, first..(first + per_piece).min(info.rows())));
            }
        }
        let size = output.layout().size();
        pieces.into_par_iter().try_for_each(|(planned, info, range)| {
            let row_bytes = info.row_bytes().unwrap_or_default();
            let (mut at, bytes) = (range.start * row_bytes, range.len() * row_bytes);
            let mut write = |piece: &[u8]| {
                output
                    .write_at(info, at, piece)
                    .map_err(|error| failed(path, size, error))?;
                at += piece.len();
                progress(piece.len());
                Ok::<_, Error>(())
            };
            match (&planned.fill, patterns.get(&info.kind)) {
                (Fill::Random(_), Some(pattern)) => {
                    let mut from = (self.pattern_start(info, pattern) + range.start * row_bytes) % pattern.len();
                    let mut left = bytes;
                    while left > 0 {
                        let taken = left.min(pattern.len() - from);
                        write(&pattern[from..from + taken])?;
                        left -= taken;
                        from = 0;
                    }
                    Ok(())
                }
                _ => {
                    let mut piece = Vec::with_capacity(bytes);
                    for row in range.clone() {
                        make_row(planned, row, rows, &mut piece)?;
                    }
                    write(&piece)
                }
            }
        })
    }

    /// Where a tensor starts in the pattern of its type: a block of its own choice, so that layers differ.
    fn pattern_start(&self, info: &TensorInfo, pattern: &[u8]) -> usize {
        let block = info.kind.block_bytes().unwrap_or(1);
        Random::new(self.options.seed, &info.name, 0).below(pattern.len() / block) * block
    }
}

fn make_row(planned: &Planned, row: usize, rows: &Rows<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
    let width = planned.dims[0];
    match &planned.fill {
        Fill::Embedding => rows.embedding(row, out),
        Fill::Output => rows.output(row, out),
        Fill::AssistantOutput => rows.assistant_output(row, out)?,
        Fill::PreProjection => rows.pre_projection(row, out)?,
        Fill::Centroids => rows.centroid(row, out)?,
        Fill::Ordering => out.extend(rows.ordering.iter().flat_map(|id| id.to_le_bytes())),
        Fill::Constant(value) => gguf::encode(planned.kind, &vec![*value; width], out)?,
        Fill::Values(values) => gguf::encode(planned.kind, values, out)?,
        Fill::Random(deviation) => {
            let from = out.len();
            out.resize(from + planned.kind.bytes(width).unwrap_or_default(), 0);
            Random::new(0, &planned.name, row).blocks(planned.kind, *deviation, &mut out[from..]);
        }
    }
    Ok(())
}

fn failed(path: &Path, size: usize, error: io::Error) -> Error {
    let path = path.to_path_buf();
    match error.kind() {
        io::ErrorKind::StorageFull => Error::Full { path, size },
        _ => Error::Io { path, error },
    }
}

/// Format: NumPy's .npy, version 1.0, one dimension of little-endian i64.
fn write_npy(path: &Path, ids: &[u32]) -> io::Result<()> {
    let mut header = format!(
        "{{'descr': '<i8', 'fortran_order': False, 'shape': ({},), }}",
        ids.len()
    );
    // magic, version and length take 10 bytes; the data starts at a multiple of 64
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - 1 - header.len()));
    header.push('\n');
    let mut out = io::BufWriter::new(fs::File::create(path)?);
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for &id in ids {
        out.write_all(&i64::from(id).to_le_bytes())?;
    }
    out.flush()
}
