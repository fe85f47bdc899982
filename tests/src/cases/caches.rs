//! cache_write, cache_read and prepare_queries: what goes into a cache and comes out of it, and what meets it.

use std::collections::BTreeMap;

use half::{bf16, f16};
use tilekiln_dsl::target::FragmentLayout;
use tilekiln_kernels::attention::cache_write::NOWHERE;
use tilekiln_kernels::attention::formats::{self, FORMATS, Format, HEAD_DIMS};
use tilekiln_kernels::attention::pages::{PAGE, Places, Side, UNIT, UNITS};
use tilekiln_runtime::device::Argument;

use super::heads::{additions, frequencies, normed_and_rotated};
use super::trial::{Output, Word, for_each, number};
use super::{Case, CaseError, Extent, Trial};
use crate::reference::cache::{BLOCK, CacheFormat};
use crate::reference::norm::rms_norm;
use crate::reference::turbo::rotation::{Direction, rotate_f64};
use crate::reference::widen;
use crate::tolerance;

const EPS: f32 = 1e-6;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let fast: Vec<&'static Format> = FORMATS.iter().filter(|format| format.fast.is_some()).collect();
    for (at, &head_dim) in HEAD_DIMS.iter().enumerate() {
        let dim = format!("head_dim={head_dim}");
        // every format on both sides, each time beside another one
        let pairs = (0..fast.len()).map(|k| [fast[k], fast[(k + at) % fast.len()]]);
        let exact = formats::find("f32").map(|format| [format, format]);
        for pair in pairs.chain(exact) {
            let settings = [
                format!("k={}", pair[0].name),
                format!("v={}", pair[1].name),
                dim.clone(),
            ];
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            cases.push(Case::new("cache_write", &settings, move |trial| {
                round_trip(trial, pair, head_dim)
            }));
        }
        for k in 0..fast.len() {
            let pair = [fast[k], fast[(k + 2 * at + 1) % fast.len()]];
            let settings = [
                format!("k={}", pair[0].name),
                format!("v={}", pair[1].name),
                dim.clone(),
            ];
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            cases.push(Case::new("prepare_attention", &settings, move |trial| {
                in_one_launch(trial, pair, head_dim)
            }));
        }
        for &format in &fast {
            let settings = [format!("k={}", format.name), dim.clone()];
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            cases.push(Case::new("prepare_queries", &settings, move |trial| {
                queries(trial, format, head_dim)
            }));
        }
        for format in FORMATS {
            for side in ["k", "v"] {
                let settings = [format!("format={}", format.name), dim.clone(), format!("side={side}")];
                let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
                cases.push(Case::new("cache_read", &settings, move |trial| {
                    whole_ring(trial, format, head_dim)
                }));
            }
        }
    }
    cases
}

/// The shape of one round trip.
struct Trip {
    slots: usize,
    kv_heads: usize,
    slot_pages: usize,
    /// Tokens of each slot, in two launches: the second one comes a ring later and overwrites a part of the first.
    tokens: usize,
    /// Values between one token's heads and the next one's.
    gap: usize,
    /// The first position is below it.
    below: u32,
    /// Keys and values are the same projection.
    is_shared: bool,
}

fn trips(extent: Extent) -> Vec<Trip> {
    let trip = |slots, kv_heads, slot_pages, tokens, gap, below, is_shared| Trip {
        slots,
        kv_heads,
        slot_pages,
        tokens,
        gap,
        below,
        is_shared,
    };
    match extent {
        Extent::Small => vec![trip(1, 1, 1, 1, 0, 30, false), trip(2, 2, 2, 2, 3, 100_000, true)],
        Extent::Medium => vec![trip(1, 1, 1, 1, 0, 30, false), trip(2, 3, 2, 4, 7, 262_000, true)],
        Extent::Large => vec![
            trip(1, 1, 1, 1, 0, 30, false),
            trip(3, 2, 3, 67, 5, 262_000, false),
            trip(5, 8, 2, 101, 0, 1000, true),
        ],
    }
}

/// A random order of the pages of all slots.
fn page_table(trial: &mut Trial<'_>, pages: usize) -> Vec<u32> {
    let mut table: Vec<u32> = (0..pages as u32).collect();
    for at in (1..pages).rev() {
        table.swap(at, trial.random.integer(0..=at as i64) as usize);
    }
    table
}

fn round_trip(trial: &mut Trial<'_>, pair: [&'static Format; 2], head_dim: usize) -> Result<(), CaseError> {
    let shapes = trips(trial.extent);
    for_each(trial, shapes, |trial, trip| {
        trial.shape(format!(
            "{} tokens of {} slots, {} kv heads, rings of {} pages, rows {} apart{}",
            2 * trip.tokens,
            trip.slots,
            trip.kv_heads,
            trip.slot_pages,
            trip.kv_heads * head_dim + trip.gap,
            if trip.is_shared { ", v is k" } else { "" }
        ));
        let pages = trip.slots * trip.slot_pages;
        let table = page_table(trial, pages);
        let bytes = pair.map(|format| pages * trip.kv_heads * (format.page_bytes)(head_dim));
        let caches = [trial.output::<u8>(bytes[0])?, trial.output::<u8>(bytes[1])?];
        let w = trial.random.normals(head_dim, 1.0);
        let frequencies = frequencies(&mut trial.random, head_dim / 2);

        let ring = (trip.slot_pages * PAGE) as u32;
        let starts: Vec<u32> = (0..trip.slots)
            .map(|_| trial.random.integer(0..=i64::from(trip.below)) as u32)
            .collect();
        let behind = ring - trip.tokens as u32 / 2;
        let mut stored: BTreeMap<(u32, u32), [Head; 2]> = BTreeMap::new();
        for offset in [0, behind] {
            // slot and position of each token
            let mut places: Vec<(u32, u32)> = (0..trip.slots)
                .flat_map(|slot| (0..trip.tokens).map(move |token| (slot, token)))
                .map(|(slot, token)| (slot as u32, starts[slot] + offset + token as u32))
                .collect();
            if places.len() > 2 {
                places.swap(0, 1);
                places[2].0 = NOWHERE;
            }
            let written = write(trial, &trip, head_dim, &places, [&w, &frequencies], &table, &caches)?;
            // what was in the ring's place before is gone
            for (&(slot, position), _) in places.iter().zip(&written).filter(|((slot, _), _)| *slot != NOWHERE) {
                stored.retain(|&(other, before), _| other != slot || before % ring != position % ring);
            }
            let kept = places
                .into_iter()
                .zip(written)
                .filter(|((slot, _), _)| *slot != NOWHERE);
            stored.extend(kept);
        }
        for (side, format) in pair.into_iter().enumerate() {
            read_all(trial, &trip, format, side, head_dim, &stored, &table, &caches[side])?;
            let layout = trial.target().fragments;
            let mut left: Vec<u8> = trial.result(&caches[side])?;
            let touched = touched(format, side, head_dim, layout, &trip, &table, stored.keys().copied());
            for (byte, touched) in left.iter_mut().zip(touched) {
                if touched {
                    *byte = <u8 as Word>::POISON;
                }
            }
            // places of the first launch that the second one did not overwrite are in `stored` still
            trial.equal(
                ["key bytes of other places", "value bytes of other places"][side],
                &left,
                &vec![<u8 as Word>::POISON; bytes[side]],
            );
        }
        Ok(())
    })
}

/// prepare_attention gives what prepare_queries and cache_write give, bit for bit.
fn in_one_launch(trial: &mut Trial<'_>, pair: [&'static Format; 2], head_dim: usize) -> Result<(), CaseError> {
    let (slots, slot_pages) = (2, 2);
    let (tokens, kv_heads, gqa) = match trial.extent {
        Extent::Small => (2, 1, 2),
        Extent::Medium => (3, 2, 3),
        Extent::Large => (61, 4, 4),
    };
    let heads = kv_heads * gqa;
    let [q_stride, kv_stride] = [heads * head_dim + 3, kv_heads * head_dim + 5];
    trial.shape(format!("{tokens} tokens, {heads} heads, {kv_heads} kv heads"));
    let first = trial.random.integer(50..=100_000) as u32;
    let positions: Vec<u32> = (first..first + tokens as u32).collect();
    let mut of_slots = vec![1_u32; tokens];
    of_slots[tokens - 1] = NOWHERE;
    let table = page_table(trial, slots * slot_pages);
    let q = trial.random.activations(tokens * q_stride);
    let q = trial.input(&q)?;
    let k = trial.random.activations(tokens * kv_stride);
    let v = trial.random.activations(tokens * kv_stride);
    let (k, v) = (trial.input(&k)?, trial.input(&v)?);
    let weights = [trial.random.normals(head_dim, 1.0), trial.random.normals(head_dim, 1.0)];
    let weights = [trial.input(&weights[0])?, trial.input(&weights[1])?];
    let frequencies = frequencies(&mut trial.random, head_dim / 2);
    let (positions, of_slots) = (trial.input(&positions)?, trial.input(&of_slots)?);
    let (table, frequencies) = (trial.input(&table)?, trial.input(&frequencies)?);
    let words = pair[0]
        .fast
        .expect("only fast formats are prepared")
        .query_words(head_dim);
    let bytes = pair.map(|format| slots * slot_pages * kv_heads * (format.page_bytes)(head_dim));
    let mut results = Vec::new();
    for together in [true, false] {
        let out = trial.output::<u32>(tokens * heads * words)?;
        let caches = [trial.output::<u8>(bytes[0])?, trial.output::<u8>(bytes[1])?];
        let cached = [caches[0].argument(), caches[1].argument()];
        if together {
            let mut arguments = vec![q.clone(), k.clone(), v.clone(), weights[0].clone(), weights[1].clone()];
            arguments.extend([&positions, &of_slots, &frequencies, &table].map(Clone::clone));
            arguments.push(out.argument());
            arguments.extend(cached);
            arguments.extend([heads, kv_heads, q_stride, kv_stride, slot_pages].map(number));
            arguments.push(Argument::F32(EPS));
            trial.launch([tokens, heads + 2 * kv_heads, 1], arguments)?;
        } else {
            let settings = [
                format!("k={}", pair[0].name),
                format!("head_dim={head_dim}"),
                format!("v={}", pair[1].name),
            ];
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            let queries = trial.other("prepare_queries", &settings[..2])?;
            let mut arguments = vec![q.clone(), weights[0].clone(), positions.clone(), frequencies.clone()];
            arguments.extend([out.argument(), number(heads), number(q_stride), Argument::F32(EPS)]);
            trial.launch_variant(&queries, [tokens, heads, 1], arguments)?;
            let write = trial.other("cache_write", &settings)?;
            let mut arguments = vec![
                k.clone(),
                v.clone(),
                weights[1].clone(),
                positions.clone(),
                of_slots.clone(),
            ];
            arguments.extend([frequencies.clone(), table.clone()]);
            arguments.extend(cached);
            arguments.extend([kv_heads, kv_stride, slot_pages].map(number));
            arguments.push(Argument::F32(EPS));
            trial.launch_variant(&write, [tokens, kv_heads, 1], arguments)?;
        }
        results.push((
            trial.result(&out)?,
            trial.result(&caches[0])?,
            trial.result(&caches[1])?,
        ));
    }
    trial.equal("queries", &results[0].0, &results[1].0);
    trial.equal("keys", &results[0].1, &results[1].1);
    trial.equal("values", &results[0].2, &results[1].2);
    Ok(())
}

/// Heads of one token, `[kv_heads, head_dim]`, and how well they are known.
struct Head {
    exact: Vec<f64>,
    bounds: Vec<f64>,
}

/// Launches cache_write with random projections: keys and values of each token as they go into the cache.
fn write(
    trial: &mut Trial<'_>,
    trip: &Trip,
    head_dim: usize,
    places: &[(u32, u32)],
    [w, frequencies]: [&[f32]; 2],
    table: &[u32],
    caches: &[Output<u8>; 2],
) -> Result<Vec<[Head; 2]>, CaseError> {
    let heads = trip.kv_heads * head_dim;
    let stride = heads + trip.gap;
    let (slots, positions): (Vec<u32>, Vec<u32>) = places.iter().copied().unzip();
    let k = trial.random.activations(places.len() * stride);
    let v = match trip.is_shared {
        true => k.clone(),
        false => trial.random.activations(places.len() * stride),
    };
    let k_argument = trial.input(&k)?;
    let v_argument = match trip.is_shared {
        true => k_argument.clone(),
        false => trial.input(&v)?,
    };
    let arguments = vec![
        k_argument,
        v_argument,
        trial.input(w)?,
        trial.input(&positions)?,
        trial.input(&slots)?,
        trial.input(frequencies)?,
        trial.input(table)?,
        caches[0].argument(),
        caches[1].argument(),
        number(trip.kv_heads),
        number(stride),
        number(trip.slot_pages),
        Argument::F32(EPS),
    ];
    trial.launch([places.len(), trip.kv_heads, 1], arguments)?;

    let dense = |rows: &[f32]| -> Vec<f32> { rows.chunks(stride).flat_map(|row| row[..heads].to_vec()).collect() };
    let (keys, key_bounds) = normed_and_rotated(&dense(&k), w, &positions, frequencies, EPS);
    let values = rms_norm(&widen(&dense(&v)), head_dim, None, f64::from(EPS));
    // a block of a padded head has more warps
    let value_bounds: Vec<f64> = values
        .iter()
        .map(|&value| tolerance::rms_norm(additions(head_dim.max(128)) + 1, value))
        .collect();
    let of = |exact: &[f64], bounds: &[f64], token: usize| Head {
        exact: exact[token * heads..][..heads].to_vec(),
        bounds: bounds[token * heads..][..heads].to_vec(),
    };
    let all = (0..places.len()).map(|token| [of(&keys, &key_bounds, token), of(&values, &value_bounds, token)]);
    Ok(all.collect())
}

/// Reads every stored position with cache_read and compares.
fn read_all(
    trial: &mut Trial<'_>,
    trip: &Trip,
    format: &'static Format,
    side: usize,
    head_dim: usize,
    stored: &BTreeMap<(u32, u32), [Head; 2]>,
    table: &[u32],
    cache: &Output<u8>,
) -> Result<(), CaseError> {
    let settings = [
        format!("format={}", format.name),
        format!("head_dim={head_dim}"),
        format!("side={}", ["k", "v"][side]),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let read = trial.other("cache_read", &settings)?;
    let reference = CacheFormat::named(format.name).expect("every format has a reference");
    let (mut got, mut want, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
    for (&(slot, position), heads) in stored {
        let out = trial.output::<f32>(trip.kv_heads * head_dim)?;
        let arguments = vec![
            cache.argument(),
            trial.input(table)?,
            out.argument(),
            Argument::U32(slot),
            Argument::U32(position),
            number(trip.kv_heads),
            number(trip.slot_pages),
        ];
        trial.launch_variant(&read, [1, trip.kv_heads, 1], arguments)?;
        got.extend(trial.result(&out)?);
        let head = &heads[side];
        for (exact, within) in head.exact.chunks(head_dim).zip(head.bounds.chunks(head_dim)) {
            want.extend(reference.read_back(exact));
            bounds.extend(tolerance::cache::read_back(reference, exact, within));
        }
    }
    trial.within(&got, &want, &bounds);
    Ok(())
}

/// Which bytes of a cache belong to these places.
fn touched(
    format: &Format,
    side: usize,
    head_dim: usize,
    layout: FragmentLayout,
    trip: &Trip,
    table: &[u32],
    places: impl Iterator<Item = (u32, u32)>,
) -> Vec<bool> {
    let unit = (format.unit)([Side::Key, Side::Value][side], head_dim, layout);
    let page_bytes = (format.page_bytes)(head_dim);
    let mut touched = vec![false; trip.slots * trip.slot_pages * trip.kv_heads * page_bytes];
    for (slot, position) in places {
        let (position, slot_pages) = (position as usize, trip.slot_pages);
        let page = table[slot as usize * slot_pages + position / PAGE % slot_pages] as usize;
        let inside = position % UNIT;
        for (kv_head, group) in (0..trip.kv_heads).flat_map(|head| (0..unit.groups).map(move |group| (head, group))) {
            let in_page = (group * UNITS + position % PAGE / UNIT) * unit.bytes;
            let start = (page * trip.kv_heads + kv_head) * page_bytes + in_page;
            for plane in &unit.planes {
                for dim in 0..unit.places.dims {
                    let (lane, run, place) = unit.places.locate(inside, dim);
                    let byte = place * plane.run_bytes / unit.places.run_len();
                    // whole bytes, and two of values of 16 bits, four of 32
                    let width = (plane.run_bytes / unit.places.run_len()).max(1);
                    for byte in byte..byte + width {
                        touched[start + plane.address(unit.places, lane, run, byte)] = true;
                    }
                }
            }
            let scales = match CacheFormat::named(format.name) {
                Some(CacheFormat::Turbo(_)) => 2 * unit.scale_index(inside)..2 * unit.scale_index(inside) + 2,
                Some(CacheFormat::Q8 | CacheFormat::Q4) => {
                    let each = 2 * unit.places.dims / BLOCK;
                    inside * each..(inside + 1) * each
                }
                _ => 0..0,
            };
            scales.for_each(|byte| touched[start + unit.scales + byte] = true);
        }
    }
    touched
}

/// A launch over many positions, across the ends of pages and of the ring, gives what launches of one give.
fn whole_ring(trial: &mut Trial<'_>, format: &'static Format, head_dim: usize) -> Result<(), CaseError> {
    let (slots, kv_heads, slot_pages) = (2, 2, 2);
    let positions = match trial.extent {
        Extent::Small => 3,
        Extent::Medium => 7,
        Extent::Large => 128,
    };
    let first = trial.random.integer(60..=64) as usize + PAGE * trial.random.integer(0..=9) as usize;
    trial.shape(format!("{positions} positions from {first} on"));
    let table = page_table(trial, slots * slot_pages);
    // finite halves of moderate size: numbers of every format, scales included
    let bytes = slots * slot_pages * kv_heads * (format.page_bytes)(head_dim);
    let cache: Vec<u8> = (0..bytes / 2)
        .flat_map(|_| (trial.random.integer(0..=0x7ff) as u16 | 0x3000).to_le_bytes())
        .collect();
    let (cache, table) = (trial.input(&cache)?, trial.input(&table)?);
    let read = |trial: &mut Trial<'_>, slot: usize, first: usize, count: usize| {
        let out = trial.output::<f32>(count * kv_heads * head_dim)?;
        let arguments = vec![
            cache.clone(),
            table.clone(),
            out.argument(),
            number(slot),
            number(first),
            number(kv_heads),
            number(slot_pages),
        ];
        trial.launch([count, kv_heads, 1], arguments)?;
        Ok::<Vec<f32>, CaseError>(trial.result(&out)?)
    };
    let together = read(trial, 1, first, positions)?;
    let mut alone = Vec::new();
    for position in 0..positions {
        alone.extend(read(trial, 1, first + position, 1)?);
    }
    trial.equal("positions together and alone", &together, &alone);
    let other = read(trial, 0, first, positions)?;
    let differing = other.iter().zip(&together).filter(|(a, b)| a != b).count();
    trial.equal("another slot is another cache", &[differing * 2 > other.len()], &[true]);
    let finite = together.iter().all(|value| value.is_finite()) && together.iter().any(|value| *value != 0.0);
    trial.equal("finite and not all zero", &[finite], &[true]);
    Ok(())
}

/// The values of a stored head in the order in which a prepared query has them: two to a word, for each group of the
/// head and each two steps along k the words of all lanes that supply a column.
pub fn query_order(layout: FragmentLayout, stored: usize) -> Vec<usize> {
    let places = Places::new(Side::Key, stored, layout);
    let (words, parts) = (layout.words_per_row(2), layout.k_parts());
    let mut order = Vec::with_capacity(stored);
    for group in 0..stored / places.dims {
        for pair in 0..places.dims / 32 {
            for part in 0..parts {
                for step in 0..2 {
                    let first = group * places.dims + part * places.run_len() + (2 * pair + step) * 2 * words;
                    order.extend(first..first + 2 * words);
                }
            }
        }
    }
    order
}

/// A prepared query's values in order; two terms of bf16 are added.
pub fn query_values(format: &Format, layout: FragmentLayout, head_dim: usize, words: &[u32]) -> Vec<f64> {
    let stored = (format.stored)(head_dim);
    let halves: Vec<u16> = words
        .iter()
        .flat_map(|word| [*word as u16, (*word >> 16) as u16])
        .collect();
    let mut values = vec![0.0; stored];
    for term in halves.chunks(stored) {
        for (&dim, &half) in query_order(layout, stored).iter().zip(term) {
            values[dim] += match format.name {
                "bf16" => bf16::from_bits(half).to_f64(),
                _ => f16::from_bits(half).to_f64(),
            };
        }
    }
    values
}

fn queries(trial: &mut Trial<'_>, format: &'static Format, head_dim: usize) -> Result<(), CaseError> {
    // tokens, heads, gap between rows, positions below, size of the first weight
    let shapes = match trial.extent {
        Extent::Small => vec![(1, 1, 0, 30, 1.0), (2, 2, 3, 262_144, 1.0)],
        Extent::Medium => vec![(1, 1, 0, 30, 1.0), (3, 5, 7, 262_144, 1.0), (1, 2, 0, 9, 3e5)],
        Extent::Large => vec![(1, 1, 0, 30, 1.0), (101, 17, 7, 262_144, 1.0), (11, 2, 0, 9, 3e5)],
    };
    let fast = format.fast.expect("only fast formats have queries");
    for_each(trial, shapes, |trial, (tokens, heads, gap, below, large)| {
        trial.shape(format!(
            "{tokens} tokens below {below}, {heads} heads, weights to {large}"
        ));
        let stride = heads * head_dim + gap;
        let q = trial.random.activations(tokens * stride);
        let mut w = trial.random.normals(head_dim, 1.0);
        w[0] = large as f32;
        let positions = trial.random.indices(tokens, below);
        let frequencies = frequencies(&mut trial.random, head_dim / 2);
        let words = fast.query_words(head_dim);
        let out = trial.output::<u32>(tokens * heads * words)?;
        let arguments = vec![
            trial.input(&q)?,
            trial.input(&w)?,
            trial.input(&positions)?,
            trial.input(&frequencies)?,
            out.argument(),
            number(heads),
            number(stride),
            Argument::F32(EPS),
        ];
        trial.launch([tokens, heads, 1], arguments)?;
        let layout = trial.target().fragments;
        let got: Vec<f32> = trial
            .result(&out)?
            .chunks(words)
            .flat_map(|query| query_values(format, layout, head_dim, query))
            .map(|value| value as f32)
            .collect();

        let dense: Vec<f32> = q
            .chunks(stride)
            .flat_map(|row| row[..heads * head_dim].to_vec())
            .collect();
        let (exact, bounds) = normed_and_rotated(&dense, &w, &positions, &frequencies, EPS);
        let (mut want, mut within) = (Vec::new(), Vec::new());
        for (head, bounds) in exact.chunks(head_dim).zip(bounds.chunks(head_dim)) {
            let mut head: Vec<f64> = head.iter().map(|value| value * std::f64::consts::LOG2_E).collect();
            let mut bounds: Vec<f64> = bounds.iter().map(|bound| bound * std::f64::consts::LOG2_E).collect();
            head.resize((format.stored)(head_dim), 0.0);
            bounds.resize(head.len(), 0.0);
            if format.rotated {
                bounds = tolerance::cache::rotated(&head, &bounds);
                head = rotate_f64(&head, Direction::Forward);
            }
            for (value, bound) in head.into_iter().zip(bounds) {
                let (value, bound) = match format.name {
                    "bf16" => (value, tolerance::cache::query_bf16(bound, value)),
                    _ => {
                        let largest = f16::MAX.to_f64();
                        (
                            value.clamp(-largest, largest),
                            tolerance::cache::query_f16(bound, value),
                        )
                    }
                };
                want.push(value);
                within.push(bound);
            }
        }
        trial.within(&got, &want, &within);
        Ok(())
    })
}
