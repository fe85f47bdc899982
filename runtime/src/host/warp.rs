//! Warp operations: shuffles, reductions, votes and matrix fragments.

use std::sync::LazyLock;

use tilekiln_dsl::ir::{Location, ReduceOp, Scalar};
use tilekiln_dsl::target::FragmentLayout;

use super::finding::FindingKind;
use super::lanes;
use super::machine::{Context, Machine, Step};
use super::program::*;

const WARP: usize = 32;
const TILE: usize = 16;

/// Row and column per lane.
type Places = [(u8, u8); WARP];

/// A fragment layout as tables: per register and half, per accumulator element.
struct Positions {
    a: Vec<[Places; 2]>,
    b: Vec<[Places; 2]>,
    accumulator: [Places; FragmentLayout::ACCUMULATOR_REGISTERS],
}

impl Positions {
    fn compute(layout: FragmentLayout) -> Self {
        let small = |(row, column): (usize, usize)| (row as u8, column as u8);
        let operand = |at: fn(FragmentLayout, usize, usize, usize) -> (usize, usize)| {
            (0..layout.operand_registers())
                .map(|register| {
                    std::array::from_fn(|half| std::array::from_fn(|lane| small(at(layout, lane, register, half))))
                })
                .collect()
        };
        Self {
            a: operand(FragmentLayout::a_position),
            b: operand(FragmentLayout::b_position),
            accumulator: std::array::from_fn(|element| {
                std::array::from_fn(|lane| small(layout.accumulator_position(lane, element)))
            }),
        }
    }

    fn of(layout: FragmentLayout) -> &'static Self {
        static PAIR: LazyLock<Positions> = LazyLock::new(|| Positions::compute(FragmentLayout::PairOfM16N8K16));
        static WMMA: LazyLock<Positions> = LazyLock::new(|| Positions::compute(FragmentLayout::Wmma16x16x16));
        match layout {
            FragmentLayout::PairOfM16N8K16 => &PAIR,
            FragmentLayout::Wmma16x16x16 => &WMMA,
        }
    }
}

/// Adds the products of two 16-bit floats in each word, rounded to f32 one by one.
fn multiply_halves(left: &[[u32; TILE]], right: &[[u32; TILE]], sums: &mut [[u32; TILE]; TILE], element: Scalar) {
    let half = |words: &[u32; TILE], shift: u32| {
        words.map(|word| {
            f32::from_bits(match element {
                Scalar::BF16 => word >> shift << 16,
                _ => lanes::f16_to_f32(word >> shift & 0xffff),
            })
        })
    };
    let mut floats = sums.map(|row| row.map(f32::from_bits));
    for (left, right) in left.iter().zip(right) {
        for shift in [0, 16] {
            let (left, right) = (half(left, shift), half(right, shift));
            for (sums, a) in floats.iter_mut().zip(&left) {
                for (sum, b) in sums.iter_mut().zip(&right) {
                    *sum += a * b;
                }
            }
        }
    }
    *sums = floats.map(|row| row.map(f32::to_bits));
}

impl Machine {
    /// Reports warps of which only some lanes are active.
    pub fn whole_warps(&mut self, what: &str, at: Location) -> Step {
        if self.sanitizer.is_none() || (self.full() && self.lanes.is_multiple_of(WARP)) {
            return Ok(());
        }
        let partial = self.active.chunks(WARP).enumerate().find_map(|(warp, masks)| {
            let active = masks.iter().filter(|mask| **mask != 0).count();
            let absent = masks.iter().position(|mask| *mask == 0).unwrap_or(masks.len());
            let present = masks.iter().position(|mask| *mask != 0)?;
            (active < WARP).then_some((warp * WARP + present, warp * WARP + absent, active))
        });
        let Some((lane, absent, active)) = partial else {
            return Ok(());
        };
        let what = what.to_owned();
        self.report(FindingKind::DivergentWarpOperation, at, lane, |it| {
            it.says(
                format!("{what} with {active} of the 32 lanes of the warp active; lane {absent} is not"),
                "move it out of the branch (compute for all lanes, select afterwards), or use whole warps",
            )
        })
    }

    /// A plane with one word per lane, whatever the slot holds.
    fn spread(&self, slot: Slot) -> Vec<u32> {
        match self.planes[slot as usize][..] {
            [one] => vec![one; self.lanes],
            ref plane => plane.to_vec(),
        }
    }

    pub fn shuffle(&mut self, d: Slot, s: Slot, by: &ShuffleBy, at: Location) -> Step {
        self.whole_warps("a shuffle", at)?;
        let mut out = std::mem::take(&mut self.planes[d as usize]);
        let spread;
        let source = match &self.planes[s as usize][..] {
            [_] if self.lanes > 1 => {
                spread = self.spread(s);
                &spread[..]
            }
            plane => plane,
        };
        let from: &[u32] = match by {
            ShuffleBy::Lane(slot) => &self.planes[*slot as usize],
            _ => &[],
        };
        for (warp, (out, source)) in out.chunks_mut(WARP).zip(source.chunks(WARP)).enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                let pick = match by {
                    ShuffleBy::Xor(mask) => lane ^ (*mask as usize % WARP),
                    ShuffleBy::Up(delta) => lane.checked_sub(*delta as usize).unwrap_or(lane),
                    ShuffleBy::Down(delta) if lane + (*delta as usize) < WARP => lane + *delta as usize,
                    ShuffleBy::Down(_) => lane,
                    ShuffleBy::Lane(_) => match from {
                        [one] => *one as usize % WARP,
                        from => from[warp * WARP + lane] as usize % WARP,
                    },
                };
                *out = source.get(pick).copied().unwrap_or(source[lane]);
            }
        }
        self.planes[d as usize] = out;
        Ok(())
    }

    pub fn reduce(&mut self, d: Slot, s: Slot, op: ReduceOp, scalar: Scalar, width: u32, at: Location) -> Step {
        self.whole_warps("a warp reduction", at)?;
        let f = match (op, scalar) {
            (ReduceOp::Sum, Scalar::F32) => Fn2::AddF,
            (ReduceOp::Min, Scalar::F32) => Fn2::MinF,
            (ReduceOp::Max, Scalar::F32) => Fn2::MaxF,
            (ReduceOp::Sum, _) => Fn2::AddI,
            (ReduceOp::Min, Scalar::I32) => Fn2::MinI,
            (ReduceOp::Max, Scalar::I32) => Fn2::MaxI,
            (ReduceOp::Min, _) => Fn2::MinU,
            (ReduceOp::Max, _) => Fn2::MaxU,
        };
        let mut out = std::mem::take(&mut self.planes[d as usize]);
        match self.planes[s as usize][..] {
            [one] => out.fill(one),
            ref plane => out.copy_from_slice(plane),
        }
        let mut swapped = std::mem::take(&mut self.index);
        swapped.resize(self.lanes, 0);
        let mut distance = 1;
        while distance < width as usize {
            // The partner's value: halves of every group of 2·distance lanes change places.
            for (swapped, out) in swapped.chunks_mut(2 * distance).zip(out.chunks(2 * distance)) {
                let (low, high) = out.split_at(distance.min(out.len()));
                if high.len() == low.len() {
                    swapped[..distance].copy_from_slice(high);
                    swapped[distance..].copy_from_slice(low);
                } else {
                    swapped.copy_from_slice(out);
                }
            }
            let mut next = std::mem::take(&mut self.partner);
            next.resize(self.lanes, 0);
            lanes::map2(f, &mut next, &out, &swapped);
            std::mem::swap(&mut next, &mut out);
            self.partner = next;
            distance *= 2;
        }
        self.index = swapped;
        self.planes[d as usize] = out;
        Ok(())
    }

    pub fn ballot(&mut self, d: Slot, s: Slot, at: Location) -> Step {
        self.whole_warps("a ballot", at)?;
        let votes = self.spread(s);
        let mut out = std::mem::take(&mut self.planes[d as usize]);
        for ((out, votes), masks) in out
            .chunks_mut(WARP)
            .zip(votes.chunks(WARP))
            .zip(self.active.chunks(WARP))
        {
            let word = votes
                .iter()
                .zip(masks)
                .enumerate()
                .fold(0, |word, (lane, (vote, mask))| word | ((vote & mask & 1) << lane));
            out.fill(word);
        }
        self.planes[d as usize] = out;
        Ok(())
    }

    /// First plane of the registers a reference leaves, the same for all lanes.
    fn fragment(&mut self, context: &Context, reference: &RegRef, at: Location) -> Step<Option<usize>> {
        let array = &context.program.registers[reference.array as usize];
        let first = self.first_active();
        let mut element = 0u32;
        for (slot, extent, stride) in &reference.terms {
            let plane = &self.planes[*slot as usize];
            let index = plane[if plane.len() == 1 { 0 } else { first }];
            if index >= *extent {
                self.report(FindingKind::OutOfBoundsRegister, at, first, |it| {
                    it.of(&array.name, u64::from(*extent), u64::from(index)).says(
                        format!("index outside the register array `{}`", array.name),
                        "keep the index below the extent",
                    )
                })?;
                return Ok(None);
            }
            element += index * stride;
        }
        Ok(Some((array.base + element * array.planes) as usize))
    }

    pub fn mma(
        &mut self,
        context: &Context,
        accumulator: &RegRef,
        a: &RegRef,
        b: &RegRef,
        element: Scalar,
        at: Location,
    ) -> Step {
        self.whole_warps("a matrix product", at)?;
        let layout = context.program.fragments;
        let operand = layout.operand_registers();
        let (Some(c0), Some(a0), Some(b0)) = (
            self.fragment(context, accumulator, at)?,
            self.fragment(context, a, at)?,
            self.fragment(context, b, at)?,
        ) else {
            return Ok(());
        };
        if self.sanitizer.is_some() {
            for (reference, count) in [
                (accumulator, FragmentLayout::ACCUMULATOR_REGISTERS),
                (a, operand),
                (b, operand),
            ] {
                self.fragment_written(context, reference, count, at)?;
            }
            if layout == FragmentLayout::Wmma16x16x16 {
                self.replicas_agree(context, a, a0, operand, at)?;
                self.replicas_agree(context, b, b0, operand, at)?;
            }
        }
        let to_f32 = |half: u32| {
            f32::from_bits(match element {
                Scalar::BF16 => half << 16,
                _ => lanes::f16_to_f32(half),
            })
        };
        let positions = Positions::of(layout);
        for warp in 0..self.lanes / WARP {
            let lanes = warp * WARP..(warp + 1) * WARP;
            if self.active[lanes.clone()].iter().all(|mask| *mask == 0) {
                continue;
            }
            let mut left = [[0f32; TILE]; TILE];
            let mut right = [[0f32; TILE]; TILE];
            for register in 0..operand {
                for (start, tile, positions) in [(a0, &mut left, &positions.a), (b0, &mut right, &positions.b)] {
                    let plane = &self.planes[start + register][lanes.clone()];
                    for (half, positions) in positions[register].iter().enumerate() {
                        let values: [f32; WARP] =
                            std::array::from_fn(|lane| to_f32((plane[lane] >> (16 * half)) & 0xffff));
                        for (value, (row, column)) in values.iter().zip(positions) {
                            tile[usize::from(row % 16)][usize::from(column % 16)] = *value;
                        }
                    }
                }
            }
            let mut sums = [[0f32; TILE]; TILE];
            for (element, positions) in positions.accumulator.iter().enumerate() {
                for (word, (row, column)) in self.planes[c0 + element][lanes.clone()].iter().zip(positions) {
                    sums[usize::from(row % 16)][usize::from(column % 16)] = f32::from_bits(*word);
                }
            }
            for (sums, left) in sums.iter_mut().zip(&left) {
                for (x, right) in left.iter().zip(&right) {
                    for (sum, y) in sums.iter_mut().zip(right) {
                        *sum += x * y;
                    }
                }
            }
            for (element, positions) in positions.accumulator.iter().enumerate() {
                let plane = &mut self.planes[c0 + element][lanes.clone()];
                let masks = &self.active[lanes.clone()];
                for ((word, mask), (row, column)) in plane.iter_mut().zip(masks).zip(positions) {
                    if *mask != 0 {
                        *word = sums[usize::from(row % 16)][usize::from(column % 16)].to_bits();
                    }
                }
            }
        }
        Ok(())
    }

    /// `accumulator += a · b` as one matrix instruction does it.
    pub fn multiply(
        &mut self,
        context: &Context,
        accumulator: &RegRef,
        a: &RegRef,
        b: &RegRef,
        element: Scalar,
        at: Location,
    ) -> Step {
        self.whole_warps("a matrix product", at)?;
        let layout = context.program.fragments;
        let words = layout.words_per_row(element.bytes());
        let (Some(c0), Some(a0), Some(b0)) = (
            self.fragment(context, accumulator, at)?,
            self.fragment(context, a, at)?,
            self.fragment(context, b, at)?,
        ) else {
            return Ok(());
        };
        if self.sanitizer.is_some() {
            self.fragment_written(context, accumulator, layout.column_accumulators(), at)?;
            self.fragment_written(context, a, layout.lane_rows() * words, at)?;
            self.fragment_written(context, b, words, at)?;
            if layout == FragmentLayout::Wmma16x16x16 {
                self.replicas_agree(context, a, a0, words, at)?;
                self.replicas_agree(context, b, b0, words, at)?;
            }
        }
        for warp in 0..self.lanes / WARP {
            let lanes = warp * WARP..(warp + 1) * WARP;
            if self.active[lanes.clone()].iter().all(|mask| *mask == 0) {
                continue;
            }
            // word [part][word] of each row and column
            let depth = layout.k_parts() * words;
            let mut left = vec![[0u32; TILE]; depth];
            let mut right = vec![[0u32; TILE]; depth];
            for lane in 0..WARP {
                let first = layout.operand_part(lane) * words;
                for word in 0..words {
                    for slot in 0..layout.lane_rows() {
                        let register = a0 + layout.row_register(slot, word);
                        left[first + word][layout.operand_row(lane, slot)] = self.planes[register][lanes.start + lane];
                    }
                    right[first + word][layout.operand_column(lane)] = self.planes[b0 + word][lanes.start + lane];
                }
            }
            let mut sums = [[0u32; TILE]; TILE];
            let held = 0..layout.column_accumulators();
            for (element, lane) in held
                .clone()
                .flat_map(|element| (0..WARP).map(move |lane| (element, lane)))
            {
                let (row, column) = layout.column_position(lane, element);
                sums[row][column] = self.planes[c0 + element][lanes.start + lane];
            }
            match element {
                Scalar::I8 | Scalar::U8 => {
                    for (left, right) in left.iter().zip(&right) {
                        for (sums, a) in sums.iter_mut().zip(left) {
                            for (sum, b) in sums.iter_mut().zip(right) {
                                *sum = lanes::dot4(*a, *b, *sum, element == Scalar::I8);
                            }
                        }
                    }
                }
                _ => multiply_halves(&left, &right, &mut sums, element),
            }
            for (element, lane) in held.flat_map(|element| (0..WARP).map(move |lane| (element, lane))) {
                if self.active[lanes.start + lane] != 0 {
                    let (row, column) = layout.column_position(lane, element);
                    self.planes[c0 + element][lanes.start + lane] = sums[row][column];
                }
            }
        }
        Ok(())
    }

    fn fragment_written(&mut self, context: &Context, reference: &RegRef, count: usize, at: Location) -> Step {
        for offset in 0..count {
            self.register_is_written(context, reference, offset as u32, at)?;
        }
        Ok(())
    }

    /// Lanes 0 to 15 and 16 to 31 of a replicated operand must hold the same.
    fn replicas_agree(
        &mut self,
        context: &Context,
        reference: &RegRef,
        base: usize,
        registers: usize,
        at: Location,
    ) -> Step {
        for warp in 0..self.lanes / WARP {
            for register in 0..registers {
                let plane = &self.planes[base + register];
                let differs = (warp * WARP..warp * WARP + TILE)
                    .find(|lane| self.active[*lane] != 0 && plane[*lane] != plane[*lane + TILE]);
                if let Some(lane) = differs {
                    let array = &context.program.registers[reference.array as usize];
                    let (low, high) = (plane[lane], plane[lane + TILE]);
                    self.report(FindingKind::FragmentMismatch, at, lane, |it| {
                        it.of(&array.name, u64::from(array.len), register as u64).says(
                            format!(
                                "the two copies of the fragment `{}` differ: {low:#010x} in lane {lane}, {high:#010x} in lane {}",
                                array.name,
                                lane + TILE
                            ),
                            "this target holds each operand in both halves of the warp: give lanes 16 to 31 what lanes 0 to 15 have",
                        )
                    })?;
                }
            }
        }
        Ok(())
    }

    pub fn load_matrix(
        &mut self,
        context: &Context,
        to: &RegRef,
        from: &PlaceRef,
        transposed: bool,
        at: Location,
    ) -> Step {
        self.whole_warps("a matrix load", at)?;
        let Some(base) = self.fragment(context, to, at)? else {
            return Ok(());
        };
        let place = PlaceRef {
            access: super::memory::SIXTEEN_BYTES,
            ..*from
        };
        self.addresses_of(context, &place, at, false)?;
        let (addresses, live) = (std::mem::take(&mut self.addresses), std::mem::take(&mut self.live));
        let mut rows = vec![[0u32; 4]; self.lanes];
        for lane in (0..self.lanes).filter(|lane| live[*lane] != 0) {
            rows[lane] = self.read16(context, place.memory, addresses[lane]);
        }
        self.addresses = addresses;
        self.live = live;
        for lane in 0..self.lanes {
            if self.active[lane] == 0 {
                continue;
            }
            let (lane0, l) = (lane / WARP * WARP, lane % WARP);
            for matrix in 0..4 {
                let row = |row: usize| rows.get(lane0 + 8 * matrix + row).copied().unwrap_or_default();
                let word = if transposed {
                    let half = |r: usize| row(r)[l / 8] >> (16 * (l / 4 % 2)) & 0xffff;
                    half(2 * (l % 4)) | (half(2 * (l % 4) + 1) << 16)
                } else {
                    row(l / 4)[l % 4]
                };
                self.planes[base + matrix][lane] = word;
            }
        }
        self.mark_fragment(context, to, 4);
        Ok(())
    }
}
