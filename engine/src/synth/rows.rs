//! Rows of the tables that decide what is predicted.

use rayon::prelude::*;

use super::config::{Config, fitting};
use super::plan::DEVIATION;
use super::random::Random;
use super::vocabulary::FIRST_WORD;
use super::walk::Walk;
use super::{CENTROIDS_SEARCHED, Error};
use crate::gguf::{TensorType, decode, encode};

/// Values of a centroid that are not 0.
const CENTROID_VALUES: usize = 16;

/// Rows by number. Any row can be had at any time, so files are written in any order and from many threads.
pub(super) struct Rows<'a> {
    config: &'a Config,
    walk: &'a Walk,
    seed: u64,
    /// Of each value of the target: the value of the assistant that it goes to, and with which weight.
    projection: Vec<(usize, f32)>,
    centroids: Vec<Vec<(usize, f32)>>,
    /// Token ids by centroid.
    pub(super) ordering: Vec<i32>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(config: &'a Config, walk: &'a Walk, seed: u64, with_centroids: bool) -> Result<Self, Error> {
        let width = config.assistant.width;
        let mut random = Random::new(seed, "projection", 0);
        // Every value of the target goes to one of the assistant's, with a random sign. Rows of the projection then
        // have length 1 and no value in common: it keeps angles as a dense random one does, and costs one pass.
        let projection = (0..config.width)
            .map(|column| {
                let row = column % width;
                let sharing = (config.width - row).div_ceil(width);
                let sign = if random.next() & 1 == 0 { 1.0 } else { -1.0 };
                (row, sign / (sharing as f32).sqrt())
            })
            .collect();
        let mut rows = Self {
            config,
            walk,
            seed,
            projection,
            centroids: Vec::new(),
            ordering: Vec::new(),
        };
        if let Some(count) = config.assistant.centroids.filter(|_| with_centroids) {
            rows.centroids = (0..count).map(|index| rows.random_centroid(index)).collect();
            rows.ordering = rows.assigned()?;
        }
        Ok(rows)
    }

    fn table_type(&self) -> TensorType {
        fitting(self.config.types[2], self.config.width)
    }

    fn random_row(&self, stream: &str, index: usize, out: &mut Vec<u8>) {
        let from = out.len();
        let kind = self.table_type();
        out.resize(from + kind.bytes(self.config.width).unwrap_or_default(), 0);
        Random::new(self.seed, stream, index).blocks(kind, self.config.embedding_deviation, &mut out[from..]);
    }

    /// The embedding of a token. A token that is no word has that of the word with the same successor.
    pub(super) fn embedding(&self, id: usize, out: &mut Vec<u8>) {
        self.random_row("embedding", self.walk.word(id), out);
    }

    /// The output row of a token: the embedding of the word before it, or nothing that any token points to.
    pub(super) fn output(&self, id: usize, out: &mut Vec<u8>) {
        match id < FIRST_WORD {
            true => self.random_row("output", id, out),
            false => self.embedding(self.walk.previous(id), out),
        }
    }

    /// The embedding of a word as the assistant sees it.
    fn projected(&self, word: usize) -> Result<Vec<f32>, Error> {
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        self.embedding(word, &mut bytes);
        decode(self.table_type(), &bytes, &mut values)?;
        let mut projected = vec![0.0; self.config.assistant.width];
        for (value, &(row, weight)) in values.iter().zip(&self.projection) {
            projected[row] += value * weight;
        }
        Ok(projected)
    }

    /// The assistant's output row of a token.
    pub(super) fn assistant_output(&self, id: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut values = match id < FIRST_WORD {
            true => {
                let mut random = Random::new(self.seed, "assistant", id);
                (0..self.config.assistant.width).map(|_| random.normal()).collect()
            }
            false => self.projected(self.walk.predicted_as(self.walk.previous(id)))?,
        };
        let scale = match id < FIRST_WORD {
            true => DEVIATION,
            false => DEVIATION / self.config.embedding_deviation,
        };
        values.iter_mut().for_each(|value| *value *= scale);
        encode(fitting(TensorType::Q8_0, values.len()), &values, out)?;
        Ok(())
    }

    /// Row `row` of the projection in front of the assistant: takes the embedding, ignores the hidden vector.
    pub(super) fn pre_projection(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut values = vec![0.0; 2 * self.config.width];
        for (column, &(to, weight)) in self.projection.iter().enumerate() {
            if to == row {
                values[column] = weight;
            }
        }
        encode(TensorType::F16, &values, out)?;
        Ok(())
    }

    /// A random direction of few values, so that finding the nearest among many is cheap.
    fn random_centroid(&self, index: usize) -> Vec<(usize, f32)> {
        let width = self.config.assistant.width;
        let mut random = Random::new(self.seed, "centroid", index);
        let mut places: Vec<usize> = (0..width).collect();
        random.shuffle(&mut places);
        places.truncate(CENTROID_VALUES);
        let value = 1.0 / (CENTROID_VALUES as f32).sqrt();
        places
            .into_iter()
            .map(|place| (place, if random.next() & 1 == 0 { value } else { -value }))
            .collect()
    }

    /// Row `index` of the centroids.
    pub(super) fn centroid(&self, index: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut values = vec![0.0; self.config.assistant.width];
        for &(place, value) in &self.centroids[index] {
            values[place] = value;
        }
        encode(TensorType::F16, &values, out)?;
        Ok(())
    }

    /// Token ids by centroid, the same number for each: every token with one of the centroids that rank highest where
    /// it is predicted, as long as these have room.
    fn assigned(&self) -> Result<Vec<i32>, Error> {
        let vocabulary = self.config.vocabulary;
        let room = vocabulary / self.centroids.len();
        let near: Vec<Vec<u32>> = (0..vocabulary)
            .into_par_iter()
            .map(|id| {
                if id < FIRST_WORD {
                    return Ok(Vec::new());
                }
                let seen = self.projected(self.walk.predicted_as(self.walk.previous(id)))?;
                let score = |centroid: &Vec<(usize, f32)>| -> f32 {
                    centroid.iter().map(|&(place, value)| seen[place] * value).sum()
                };
                let mut scores: Vec<(f32, u32)> = self.centroids.iter().map(score).zip(0..).collect();
                // half of what is searched: noise moves ranks
                let kept = (CENTROIDS_SEARCHED / 2).min(scores.len());
                scores.select_nth_unstable_by(kept - 1, |a, b| b.0.total_cmp(&a.0));
                scores.truncate(kept);
                scores.sort_by(|a, b| b.0.total_cmp(&a.0));
                Ok(scores.into_iter().map(|(_, centroid)| centroid).collect())
            })
            .collect::<Result<_, Error>>()?;
        let mut members = vec![Vec::with_capacity(room); self.centroids.len()];
        let mut homeless = Vec::new();
        let mut order: Vec<usize> = (FIRST_WORD..vocabulary).collect();
        Random::new(self.seed, "assignment", 0).shuffle(&mut order);
        for id in order.into_iter().chain(0..FIRST_WORD) {
            match near[id]
                .iter()
                .find(|&&centroid| members[centroid as usize].len() < room)
            {
                Some(&centroid) => members[centroid as usize].push(id as i32),
                None => homeless.push(id as i32),
            }
        }
        for members in &mut members {
            let free = room - members.len();
            members.extend(homeless.drain(homeless.len().saturating_sub(free)..));
        }
        Ok(members.concat())
    }
}
