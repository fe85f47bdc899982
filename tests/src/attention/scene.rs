//! Sequences in caches, and attention to them.

use tilekiln_dsl::target::FragmentLayout;
use tilekiln_kernels::attention::combine::{CombineShape, flash_combine, flash_combine_int8};
use tilekiln_kernels::attention::formats::{self, Fast, Format, Pair};
use tilekiln_kernels::attention::pages::{PAGE, Side};
use tilekiln_kernels::attention::partition::{self, NO_WINDOW};
use tilekiln_kernels::attention::shapes::{Chosen, Shapes};
use tilekiln_kernels::matmul::packed::product::token_stride;
use tilekiln_kernels::matmul::packed::{SUB_BLOCKS, TILE_COLS, tiles_across};
use tilekiln_kernels::matmul::prepare::prepare_rows;
use tilekiln_runtime::device::{Argument, Buffer, Launch, Loaded};

use super::Kernels;
use super::decoded::Decoded;
use crate::cases::CaseError;
use crate::cases::caches::query_values;
use crate::random::Random;

const EPS: f32 = 1e-6;

/// What a scene is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Formats of keys and values.
    pub pair: [&'static str; 2],
    /// Values per head.
    pub head_dim: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Keys in reach, the own one included; all where there is no window.
    pub window: Option<usize>,
    /// Keys of each slot's sequence.
    pub lengths: Vec<usize>,
    /// Query heads per KV head that are drawn, and query tokens at the end of each sequence: the most of any cell.
    pub most_gqa: usize,
    /// See [`Self::most_gqa`].
    pub most_rows: usize,
}

/// A query token: a slot, and which of the drawn ones at the end of its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The slot.
    pub slot: usize,
    /// 0 for the first drawn, `most_rows - 1` for the last token.
    pub index: usize,
}

/// What flash_decode leaves to a combining kernel.
struct Parts {
    inputs: Vec<Argument>,
    sizes: Vec<Argument>,
    grid: [usize; 3],
}

/// Sequences in caches on a device.
pub struct Scene<'a> {
    /// Loads kernels.
    pub kernels: &'a Kernels<'a>,
    /// What it is like.
    pub setup: Setup,
    /// Keys and values.
    pub formats: [&'static Format; 2],
    /// Shapes of blocks for the pair.
    pub shapes: Shapes,
    pair: &'static Pair,
    fast: Fast,
    caches: [Buffer; 2],
    table: Vec<u32>,
    table_argument: Argument,
    slot_pages: usize,
    /// [slots, most_rows, kv_heads * most_gqa, head_dim]
    queries: Vec<f32>,
    query_weight: Argument,
    frequencies: Argument,
}

impl<'a> Scene<'a> {
    /// Draws sequences and queries and fills the caches.
    ///
    /// # Errors
    /// Those of kernels and devices; formats without fast attention are none that a scene can have.
    pub fn new(kernels: &'a Kernels<'a>, setup: Setup, random: &mut Random) -> Result<Self, CaseError> {
        let unknown = |_: ()| CaseError::UnknownKernel("flash_decode of these formats");
        let pair = formats::find_pair(setup.pair).ok_or(()).map_err(unknown)?;
        let shapes = Shapes::of(kernels.target, pair, setup.head_dim)
            .ok_or(())
            .map_err(unknown)?;
        let find = |name| formats::find(name).ok_or(()).map_err(unknown);
        let formats = [find(setup.pair[0])?, find(setup.pair[1])?];
        let fast = formats[0].fast.ok_or(()).map_err(unknown)?;
        let Setup { head_dim, kv_heads, .. } = setup;

        let longest = setup.lengths.iter().copied().max().unwrap_or(1);
        // a ring holds the window and the rows that look at it
        let in_reach = setup
            .window
            .map_or(longest, |window| longest.min(window + setup.most_rows));
        let slot_pages = in_reach.div_ceil(PAGE) + 1;
        let pages = setup.lengths.len() * slot_pages;
        let mut table: Vec<u32> = (0..pages as u32).collect();
        for at in (1..pages).rev() {
            table.swap(at, random.integer(0..=at as i64) as usize);
        }
        let device = kernels.device;
        let cache = |format: &Format| -> Result<Buffer, CaseError> {
            let buffer = device.allocate(pages * kv_heads * (format.page_bytes)(head_dim))?;
            // large finite numbers in every format, scales included: caches hold no others, and where nothing was stored
            // yet they count for nothing
            device.fill(&buffer, 0x4b)?;
            Ok(buffer)
        };
        let caches = [cache(formats[0])?, cache(formats[1])?];
        // scores of a standard deviation of about 1.5
        let mut weights = |scale: f64| -> Vec<f32> {
            (0..head_dim)
                .map(|_| ((0.5 + random.uniform()) * scale) as f32)
                .collect()
        };
        let (key_weight, query_weight) = (weights(1.0), weights(1.5 / (head_dim as f64).sqrt()));
        let frequencies: Vec<f32> = (0..head_dim / 2)
            .map(|pair| 1e4_f32.powf(-2.0 * pair as f32 / head_dim as f32))
            .collect();
        let queries = random.normals(
            setup.lengths.len() * setup.most_rows * kv_heads * setup.most_gqa * head_dim,
            1.0,
        );
        let scene = Self {
            table_argument: upload(kernels, &table)?,
            query_weight: upload(kernels, &query_weight)?,
            frequencies: upload(kernels, &frequencies)?,
            kernels,
            formats,
            shapes,
            pair,
            fast,
            caches,
            table,
            slot_pages,
            queries,
            setup,
        };
        let key_weight = upload(kernels, &key_weight)?;
        for slot in 0..scene.setup.lengths.len() {
            scene.fill(slot, &key_weight, random)?;
        }
        Ok(scene)
    }

    /// Stores a whole sequence, at most a ring of it at a time.
    fn fill(&self, slot: usize, key_weight: &Argument, random: &mut Random) -> Result<(), CaseError> {
        let Setup { head_dim, kv_heads, .. } = self.setup;
        let write = self.kernels.get((self.pair.cache_write)(head_dim))?;
        let stride = kv_heads * head_dim;
        let length = self.setup.lengths[slot];
        let step = (self.slot_pages - 1) * PAGE;
        for first in (0..length).step_by(step) {
            let count = step.min(length - first);
            let mut projection = || upload(self.kernels, &random.normals(count * stride, 1.0));
            let (k, v) = (projection()?, projection()?);
            let positions: Vec<u32> = (first..first + count).map(|position| position as u32).collect();
            let arguments = vec![
                k,
                v,
                key_weight.clone(),
                upload(self.kernels, &positions)?,
                upload(self.kernels, &vec![slot as u32; count])?,
                self.frequencies.clone(),
                self.table_argument.clone(),
                Argument::Buffer(self.caches[0].clone(), 0),
                Argument::Buffer(self.caches[1].clone(), 0),
                Argument::U32(kv_heads as u32),
                Argument::U32(stride as u32),
                Argument::U32(self.slot_pages as u32),
                Argument::F32(EPS),
            ];
            self.launch(&write, [count, kv_heads, 1], arguments)?;
        }
        Ok(())
    }

    fn launch(&self, kernel: &Loaded, grid: [usize; 3], arguments: Vec<Argument>) -> Result<(), CaseError> {
        let launch = Launch {
            grid: grid.map(|size| size as u32),
            arguments,
            dependent: false,
        };
        Ok(self.kernels.device.launch(kernel, &launch)?)
    }

    /// The position of a row.
    pub fn position(&self, row: Row) -> usize {
        self.setup.lengths[row.slot] - self.setup.most_rows + row.index
    }

    /// Keys that a row sees.
    pub fn sight(&self, row: Row) -> std::ops::Range<usize> {
        let position = self.position(row);
        let begin = self
            .setup
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        begin..position + 1
    }

    /// The last `count` rows of a slot.
    pub fn last_rows(&self, slot: usize, count: usize) -> Vec<Row> {
        (self.setup.most_rows - count..self.setup.most_rows)
            .map(|index| Row { slot, index })
            .collect()
    }

    /// How the target's fragments lie.
    pub fn layout(&self) -> FragmentLayout {
        self.kernels.target.fragments
    }

    fn window(&self) -> u32 {
        self.setup.window.map_or(NO_WINDOW, |window| window as u32)
    }

    /// Raw queries of rows with `gqa` heads per KV head: [rows, kv_heads * gqa, head_dim].
    fn raw(&self, rows: &[Row], gqa: usize) -> Vec<f32> {
        let Setup {
            head_dim,
            kv_heads,
            most_gqa,
            most_rows,
            ..
        } = self.setup;
        let mut out = Vec::with_capacity(rows.len() * kv_heads * gqa * head_dim);
        for row in rows {
            let first = (row.slot * most_rows + row.index) * kv_heads;
            for kv_head in 0..kv_heads {
                out.extend_from_slice(&self.queries[(first + kv_head) * most_gqa * head_dim..][..gqa * head_dim]);
            }
        }
        out
    }

    fn positions(&self, rows: &[Row]) -> Result<[Argument; 2], CaseError> {
        let positions: Vec<u32> = rows.iter().map(|&row| self.position(row) as u32).collect();
        let visible: Vec<u32> = positions.iter().map(|position| position + 1).collect();
        Ok([upload(self.kernels, &positions)?, upload(self.kernels, &visible)?])
    }

    /// Words of the prepared queries of rows: [rows, kv_heads * gqa, words].
    fn prepare(&self, rows: &[Row], gqa: usize) -> Result<Buffer, CaseError> {
        let Setup { head_dim, kv_heads, .. } = self.setup;
        let heads = kv_heads * gqa;
        let kernel = self.kernels.get((self.fast.prepare_queries)(head_dim))?;
        let out = self.poisoned(rows.len() * heads * self.fast.query_words(head_dim) * 4)?;
        let arguments = vec![
            upload(self.kernels, &self.raw(rows, gqa))?,
            self.query_weight.clone(),
            self.positions(rows)?[0].clone(),
            self.frequencies.clone(),
            Argument::Buffer(out.clone(), 0),
            Argument::U32(heads as u32),
            Argument::U32((heads * head_dim) as u32),
            Argument::F32(EPS),
        ];
        self.launch(&kernel, [rows.len(), heads, 1], arguments)?;
        Ok(out)
    }

    /// Prepared queries of rows as numbers, in the domain of cached keys: [rows, kv_heads * gqa, stored].
    ///
    /// # Errors
    /// Those of the device.
    pub fn prepared_values(&self, rows: &[Row], gqa: usize) -> Result<Vec<f64>, CaseError> {
        let words: Vec<u32> = self.download(&self.prepare(rows, gqa)?)?;
        let each = self.fast.query_words(self.setup.head_dim);
        let values = |query| query_values(self.formats[0], self.layout(), self.setup.head_dim, query);
        Ok(words.chunks(each).flat_map(values).collect())
    }

    fn poisoned(&self, bytes: usize) -> Result<Buffer, CaseError> {
        let buffer = self.kernels.device.allocate(bytes)?;
        self.kernels.device.fill(&buffer, 0xff)?;
        Ok(buffer)
    }

    fn download<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, buffer: &Buffer) -> Result<Vec<T>, CaseError> {
        let mut values = vec![T::zeroed(); buffer.bytes / size_of::<T>()];
        self.kernels
            .device
            .download(buffer, 0, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Rows that follow each other in one sequence, up to `per` a group: (first row, rows, slot) each.
    fn groups(rows: &[Row], per: usize) -> Vec<u32> {
        let mut groups: Vec<[u32; 3]> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let follows = at > 0 && rows[at - 1].slot == row.slot && rows[at - 1].index + 1 == row.index;
            match groups.last_mut() {
                Some(group) if follows && (group[1] as usize) < per => group[1] += 1,
                _ => groups.push([at as u32, 1, row.slot as u32]),
            }
        }
        groups.concat()
    }

    fn scalars(&self, gqa: usize) -> Vec<Argument> {
        [self.setup.kv_heads * gqa, gqa, self.slot_pages, self.window() as usize]
            .map(|value| Argument::U32(value as u32))
            .to_vec()
    }

    fn start(&self, q: Buffer) -> Vec<Argument> {
        vec![
            Argument::Buffer(q, 0),
            Argument::Buffer(self.caches[0].clone(), 0),
            Argument::Buffer(self.caches[1].clone(), 0),
            self.table_argument.clone(),
        ]
    }

    /// prepare_queries and flash_decode, in groups of up to `per` rows.
    fn split(&self, rows: &[Row], gqa: usize, chosen: Chosen, per: usize) -> Result<Parts, CaseError> {
        let Setup { head_dim, kv_heads, .. } = self.setup;
        let Some([decode, _]) = self.pair.flash else {
            return Err(CaseError::UnknownKernel("flash_decode"));
        };
        let decode = self.kernels.get(decode(chosen.shape))?;
        let groups = Self::groups(rows, per);
        let (count, groups) = (groups.len() / 3, upload(self.kernels, &groups)?);
        let [positions, visible] = self.positions(rows)?;
        let end = rows.iter().map(|&row| self.position(row) + 1).max().unwrap_or(1);
        let chunks = partition::chunks(end, self.window(), per);
        let stored = (self.formats[1].stored)(head_dim);
        let parts = count * kv_heads * chunks * chosen.columns;
        let partial = Argument::Buffer(self.poisoned(parts * stored * 4)?, 0);
        let worth = Argument::Buffer(self.poisoned(parts * 8)?, 0);
        let mut arguments = self.start(self.prepare(rows, gqa)?);
        arguments.extend([groups.clone(), positions.clone(), visible.clone()]);
        arguments.extend([partial.clone(), worth.clone()]);
        arguments.extend(self.scalars(gqa));
        arguments.push(Argument::U32(chunks as u32));
        // any number of blocks may share the chunks where they go on with another one
        let blocks = match chosen.shape.goes_on() {
            true => 1 + (7 * rows.len() + 3 * per + gqa) % chunks,
            false => chunks,
        };
        self.launch(&decode, [kv_heads, blocks, count], arguments)?;
        let sizes = [
            kv_heads * gqa,
            gqa,
            self.window() as usize,
            head_dim,
            stored,
            chosen.columns,
            chunks,
        ];
        Ok(Parts {
            inputs: vec![partial, worth, groups, positions, visible],
            sizes: sizes.map(|size| Argument::U32(size as u32)).to_vec(),
            grid: [per * gqa * (stored / self.combine_shape().slice), kv_heads, count],
        })
    }

    /// prepare_queries, flash_decode and flash_combine, in groups of up to `per` rows: [rows, kv_heads * gqa, head_dim].
    ///
    /// # Errors
    /// Those of kernels and devices.
    pub fn decode(&self, rows: &[Row], gqa: usize, chosen: Chosen, per: usize) -> Result<Vec<f32>, CaseError> {
        let parts = self.split(rows, gqa, chosen, per)?;
        let combine = self.kernels.get(flash_combine(self.combine_shape()))?;
        let out = self.poisoned(rows.len() * self.setup.kv_heads * gqa * self.setup.head_dim * 4)?;
        let out_argument = Argument::Buffer(out.clone(), 0);
        let arguments = [parts.inputs, vec![out_argument], parts.sizes].concat();
        self.launch(&combine, parts.grid, arguments)?;
        self.download(&out)
    }

    /// As [`decode`](Self::decode), with flash_combine_int8: words, scales and sums, every byte of them.
    ///
    /// # Errors
    /// Those of kernels and devices.
    pub fn decode_int8(&self, rows: &[Row], gqa: usize, chosen: Chosen, per: usize) -> Result<[Vec<u8>; 3], CaseError> {
        let parts = self.split(rows, gqa, chosen, per)?;
        let combine = self.kernels.get(flash_combine_int8(self.combine_shape()))?;
        let outs = self.int8_rows(rows.len(), self.setup.kv_heads * gqa * self.setup.head_dim)?;
        let out_arguments = outs.iter().map(|out| Argument::Buffer(out.clone(), 0)).collect();
        let stride = vec![Argument::U32(token_stride(rows.len()) as u32)];
        let arguments = [parts.inputs, out_arguments, parts.sizes, stride].concat();
        self.launch(&combine, parts.grid, arguments)?;
        Ok([
            self.download(&outs[0])?,
            self.download(&outs[1])?,
            self.download(&outs[2])?,
        ])
    }

    fn int8_rows(&self, rows: usize, cols: usize) -> Result<[Buffer; 3], CaseError> {
        let groups = tiles_across(cols) * token_stride(rows);
        Ok([
            self.poisoned(groups * TILE_COLS)?,
            self.poisoned(groups * SUB_BLOCKS * 4)?,
            self.poisoned(groups * SUB_BLOCKS * 8)?,
        ])
    }

    /// prepare_rows of `[rows, cols]`: words, scales and sums, every byte of them.
    ///
    /// # Errors
    /// Those of kernels and devices.
    pub fn prepare_rows(&self, rows: usize, values: &[f32]) -> Result<[Vec<u8>; 3], CaseError> {
        let cols = values.len() / rows;
        let kernel = self.kernels.get(prepare_rows(320, cols.div_ceil(4 * 320)))?;
        let outs = self.int8_rows(rows, cols)?;
        let mut arguments = vec![upload(self.kernels, values)?];
        arguments.extend(outs.iter().map(|out| Argument::Buffer(out.clone(), 0)));
        arguments.extend([cols, token_stride(rows)].map(|size| Argument::U32(size as u32)));
        self.launch(&kernel, [rows, 1, 1], arguments)?;
        Ok([
            self.download(&outs[0])?,
            self.download(&outs[1])?,
            self.download(&outs[2])?,
        ])
    }

    /// The shape of blocks that combine this pair's partial results.
    pub fn combine_shape(&self) -> CombineShape {
        let end = self.setup.lengths.iter().copied().max().unwrap_or(1);
        let chunks = partition::chunks(end, self.window(), self.setup.most_rows);
        let slice = (self.formats[1].stored)(self.setup.head_dim).min(128);
        CombineShape::of(slice, self.formats[1].rotated, chunks)
    }

    /// prepare_queries and flash_prefill: [rows, kv_heads * gqa, head_dim].
    ///
    /// # Errors
    /// Those of kernels and devices.
    pub fn prefill(&self, rows: &[Row], gqa: usize, chosen: Chosen) -> Result<Vec<f32>, CaseError> {
        let Setup { head_dim, kv_heads, .. } = self.setup;
        let Some([_, prefill]) = self.pair.flash else {
            return Err(CaseError::UnknownKernel("flash_prefill"));
        };
        let prefill = self.kernels.get(prefill(chosen.shape))?;
        let groups = Self::groups(rows, chosen.rows(gqa));
        let count = groups.len() / 3;
        let [positions, visible] = self.positions(rows)?;
        let out = self.poisoned(rows.len() * kv_heads * gqa * head_dim * 4)?;
        let mut arguments = self.start(self.prepare(rows, gqa)?);
        arguments.extend([upload(self.kernels, &groups)?, positions, visible]);
        arguments.push(Argument::Buffer(out.clone(), 0));
        arguments.extend(self.scalars(gqa));
        self.launch(&prefill, [1, kv_heads, count], arguments)?;
        self.download(&out)
    }

    /// attend_exact with queries `[rows, kv_heads * gqa, head_dim]`, which are taken as they are.
    ///
    /// # Errors
    /// Those of kernels and devices.
    pub fn exact(&self, rows: &[Row], gqa: usize, queries: &[f32]) -> Result<Vec<f32>, CaseError> {
        let heads = self.setup.kv_heads * gqa;
        let kernel = self.kernels.get((self.pair.exact)(self.setup.head_dim))?;
        let slots: Vec<u32> = rows.iter().map(|row| row.slot as u32).collect();
        let [positions, visible] = self.positions(rows)?;
        let out = self.poisoned(queries.len() * 4)?;
        let buffer = self.kernels.device.allocate(queries.len() * 4)?;
        self.kernels.device.upload(&buffer, 0, bytemuck::cast_slice(queries))?;
        let mut arguments = self.start(buffer);
        arguments.extend([upload(self.kernels, &slots)?, positions, visible]);
        arguments.push(Argument::Buffer(out.clone(), 0));
        arguments.extend(self.scalars(gqa));
        self.launch(&kernel, [rows.len(), heads, 1], arguments)?;
        self.download(&out)
    }

    /// What the cache of a side holds of a slot, from position `first` on.
    ///
    /// # Errors
    /// Those of kernels and devices; cache_read that gives what no format can hold.
    pub fn decoded(&self, side: Side, slot: usize, first: usize) -> Result<Decoded, CaseError> {
        let number = usize::from(side == Side::Value);
        let format = self.formats[number];
        let Setup { head_dim, kv_heads, .. } = self.setup;
        // padded heads lie as whole ones of that size do, and are read with their padding
        let stored = (format.stored)(head_dim);
        let count = self.setup.lengths[slot] - first;
        let read = self.kernels.get((format.cache_read)(
            tilekiln_kernels::attention::cache_read::ReadShape {
                head_dim: stored,
                values: side == Side::Value,
            },
        ))?;
        let out = self.poisoned(count * kv_heads * stored * 4)?;
        let arguments = vec![
            Argument::Buffer(self.caches[number].clone(), 0),
            self.table_argument.clone(),
            Argument::Buffer(out.clone(), 0),
            Argument::U32(slot as u32),
            Argument::U32(first as u32),
            Argument::U32(kv_heads as u32),
            Argument::U32(self.slot_pages as u32),
        ];
        self.launch(&read, [count, kv_heads, 1], arguments)?;
        let values: Vec<f32> = self.download(&out)?;
        let bytes: Vec<u8> = self.download(&self.caches[number])?;
        let table = &self.table[slot * self.slot_pages..][..self.slot_pages];
        let page = |position: usize, kv_head: usize| {
            let page = table[position / PAGE % self.slot_pages] as usize;
            &bytes[(page * kv_heads + kv_head) * (format.page_bytes)(head_dim)..]
        };
        let unit = (format.unit)(side, head_dim, self.layout());
        Ok(Decoded::new(format, &unit, first, kv_heads, &values, page))
    }
}

fn upload<T: bytemuck::NoUninit>(kernels: &Kernels<'_>, values: &[T]) -> Result<Argument, CaseError> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = kernels.device.allocate(bytes.len())?;
    kernels.device.upload(&buffer, 0, bytes)?;
    Ok(Argument::Buffer(buffer, 0))
}
