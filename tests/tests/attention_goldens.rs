//! Attention over caches against end-to-end outputs of another implementation, `golden/turboquant/attention.safetensors`.
//!
//! Those take keys, values and queries as they are; our caches and queries are normalised. A head is stored unchanged
//! with `eps = 1 - mean(x²)`, which makes the norm's factor 1: each head gets a launch of its own, and each KV head is a
//! sequence of its own, with one KV head.

use std::sync::Arc;

use tilekiln_dsl::prelude::KernelDef;
use tilekiln_dsl::target::Target;
use tilekiln_kernels::attention::combine::{CombineShape, flash_combine};
use tilekiln_kernels::attention::formats::{self, Format, Pair};
use tilekiln_kernels::attention::partition::{NO_WINDOW, chunks};
use tilekiln_kernels::attention::shapes::Shapes;
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::{Argument, Buffer, Device, Launch};
use tilekiln_runtime::error::DeviceError;
use tilekiln_runtime::host::HostDevice;
use tilekiln_tests::golden::Golden;
use tilekiln_tests::requirement::require;

/// Names of formats in the goldens; turbo4 has the codebook of its first implementation there.
fn format(name: &str) -> &'static Format {
    let ours = if name == "turbo4" { "turbo4_first" } else { name };
    formats::find(ours).unwrap_or_else(|| panic!("the goldens have a format {name}"))
}

/// Limits on the relative distance over a tensor. attend_exact computes in f32: those that are published with the goldens
/// (the other implementation rounds queries or accumulators to f16 beside an f16 side, and quantises queries to 8 bits for
/// q8_0 keys). The flash kernels round queries and weights to f16 themselves, whatever the formats: for them the limit
/// of an f16 side holds for all.
fn limit(keys: &str, values: &str, is_exact: bool) -> f64 {
    match (keys, values) {
        ("q8_0", _) => 1.2e-2,
        ("f16", _) | (_, "f16") => 2e-3,
        _ if is_exact => 2e-5,
        _ => 2e-3,
    }
}

struct Session<'a> {
    device: &'a dyn Device,
    target: &'a Target,
}

impl Session<'_> {
    fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<Argument, DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.device.allocate(bytes.len())?;
        self.device.upload(&buffer, 0, bytes)?;
        Ok(Argument::Buffer(buffer, 0))
    }

    fn filled(&self, bytes: usize, byte: u8) -> Result<Buffer, DeviceError> {
        let buffer = self.device.allocate(bytes)?;
        self.device.fill(&buffer, byte)?;
        Ok(buffer)
    }

    fn launch(&self, def: &KernelDef, launches: Vec<([usize; 3], Vec<Argument>)>) -> Result<(), DeviceError> {
        let kernel = def.record(self.target).unwrap_or_else(|error| panic!("{error}"));
        let loaded = self.device.load(vec![Arc::new(kernel)])?;
        for (grid, arguments) in launches {
            let launch = Launch {
                grid: grid.map(|size| size as u32),
                arguments,
                dependent: false,
            };
            self.device.launch(&loaded[0], &launch)?;
        }
        Ok(())
    }
}

/// What makes the factor of a head's norm 1.
fn eps(head: &[f32]) -> Argument {
    let mean = head.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / head.len() as f64;
    Argument::F32((1.0 - mean) as f32)
}

fn number(value: usize) -> Argument {
    Argument::U32(value as u32)
}

/// Sizes of one set of goldens.
#[derive(Clone, Copy)]
struct Sizes {
    dim: usize,
    kv_heads: usize,
    gqa: usize,
    cells: usize,
    rows: usize,
}

/// Fills a cache: slot h is KV head h. `rows` is [cells, kv_heads, dim].
fn cache(
    session: &Session<'_>,
    sizes: Sizes,
    pair: &Pair,
    side: usize,
    rows: &[f32],
) -> Result<[Argument; 2], DeviceError> {
    let bytes = |name: &str| {
        let page = formats::find(name).map_or(0, |format| (format.page_bytes)(sizes.dim));
        session.filled(sizes.kv_heads * page, 0)
    };
    let caches = [bytes(pair.names[0])?, bytes(pair.names[1])?];
    let (ones, still) = (vec![1.0_f32; sizes.dim], vec![0.0_f32; sizes.dim / 2]);
    let (ones, still) = (session.upload(&ones)?, session.upload(&still)?);
    let table: Vec<u32> = (0..sizes.kv_heads as u32).rev().collect();
    let table = session.upload(&table)?;
    let mut launches = Vec::new();
    for (at, head) in rows.chunks_exact(sizes.dim).enumerate() {
        let (cell, slot) = ((at / sizes.kv_heads) as u32, (at % sizes.kv_heads) as u32);
        let raw = session.upload(head)?;
        let arguments = vec![
            raw.clone(),
            raw,
            ones.clone(),
            session.upload(&[cell])?,
            session.upload(&[slot])?,
            still.clone(),
            table.clone(),
            Argument::Buffer(caches[0].clone(), 0),
            Argument::Buffer(caches[1].clone(), 0),
            number(1),
            number(sizes.dim),
            number(1),
            eps(head),
        ];
        launches.push(([1, 1, 1], arguments));
    }
    session.launch(&(pair.cache_write)(sizes.dim), launches)?;
    Ok([Argument::Buffer(caches[side].clone(), 0), table])
}

/// Outputs of attend_exact, of decoding, and of a prompt, each [rows, heads, dim].
fn outputs(
    session: &Session<'_>,
    sizes: Sizes,
    pair: &Pair,
    [q, k, v]: [&[f32]; 3],
    visible: &[u32],
) -> Result<Vec<(&'static str, Vec<f32>)>, DeviceError> {
    let Sizes {
        dim,
        kv_heads,
        gqa,
        cells,
        rows,
    } = sizes;
    let heads = kv_heads * gqa;
    let ([cache_k, table], [cache_v, _]) = (cache(session, sizes, pair, 0, k)?, cache(session, sizes, pair, 1, v)?);
    let positions: Vec<u32> = visible.iter().map(|end| end - 1).collect();
    let (positions, visible) = (session.upload(&positions)?, session.upload(visible)?);
    let mut found = vec![
        ("attend_exact", vec![0.0_f32; q.len()]),
        ("decode", vec![0.0; q.len()]),
        ("prefill", vec![0.0; q.len()]),
    ];
    let fast = formats::find(pair.names[0])
        .and_then(|format| format.fast)
        .expect("fast keys");
    let shapes = Shapes::of(session.target, pair, dim).expect("a pair of fast formats");
    let (decode, prefill) = (shapes.decode(gqa, rows), shapes.prefill(gqa));
    let (decode, prefill) = (decode.expect("a shape"), prefill.expect("a shape"));
    let [flash_decode, flash_prefill] = pair.flash.expect("a pair of fast formats");
    let values = formats::find(pair.names[1]).expect("a format");
    let (stored, words) = ((values.stored)(dim), fast.query_words(dim));
    let per_group = decode.rows(gqa).min(prefill.rows(gqa)).min(rows);
    for slot in 0..kv_heads {
        // queries of this KV head: [rows, gqa, dim]
        let own: Vec<f32> = (0..rows)
            .flat_map(|row| q[(row * heads + slot * gqa) * dim..][..gqa * dim].to_vec())
            .collect();
        let groups: Vec<[u32; 3]> = (0..rows)
            .step_by(per_group)
            .map(|first| [first as u32, per_group.min(rows - first) as u32, slot as u32])
            .collect();
        let count = groups.len();
        let groups = session.upload(&groups.concat())?;
        let (ones, still) = (vec![1.0_f32; dim], vec![0.0_f32; dim / 2]);
        let (ones, still) = (session.upload(&ones)?, session.upload(&still)?);
        let prepared = session.filled(rows * gqa * words * 4, 0xff)?;
        let mut launches = Vec::new();
        for (at, head) in own.chunks_exact(dim).enumerate() {
            let arguments = vec![
                session.upload(head)?,
                ones.clone(),
                session.upload(&[0_u32])?,
                still.clone(),
                Argument::Buffer(prepared.clone(), at * words * 4),
                number(1),
                number(dim),
                eps(head),
            ];
            launches.push(([1, 1, 1], arguments));
        }
        session.launch(&(fast.prepare_queries)(dim), launches)?;

        let outs = [(); 3].map(|()| session.filled(rows * gqa * dim * 4, 0xff));
        let outs = outs.into_iter().collect::<Result<Vec<_>, _>>()?;
        let scalars = || [gqa, gqa, 1, NO_WINDOW as usize].map(number);
        let slots = session.upload(&vec![slot as u32; rows])?;
        let mut arguments = vec![session.upload(&own)?, cache_k.clone(), cache_v.clone(), table.clone()];
        arguments.extend([
            slots,
            positions.clone(),
            visible.clone(),
            Argument::Buffer(outs[0].clone(), 0),
        ]);
        arguments.extend(scalars());
        session.launch(&(pair.exact)(dim), vec![([rows, gqa, 1], arguments)])?;

        let start = || {
            let prepared = Argument::Buffer(prepared.clone(), 0);
            let caches = [prepared, cache_k.clone(), cache_v.clone(), table.clone()];
            caches
                .into_iter()
                .chain([groups.clone(), positions.clone(), visible.clone()])
                .collect::<Vec<_>>()
        };
        let chunks = chunks(cells, NO_WINDOW, rows);
        let parts = count * chunks * decode.columns;
        let partial = Argument::Buffer(session.filled(parts * stored * 4, 0xff)?, 0);
        let worth = Argument::Buffer(session.filled(parts * 8, 0xff)?, 0);
        let mut arguments = start();
        arguments.extend([partial.clone(), worth.clone()]);
        arguments.extend(scalars());
        arguments.push(number(chunks));
        session.launch(&flash_decode(decode.shape), vec![([1, chunks, count], arguments)])?;
        let combine = CombineShape::of(stored.min(128), values.rotated, chunks);
        let mut arguments = vec![partial, worth, groups.clone(), positions.clone(), visible.clone()];
        arguments.push(Argument::Buffer(outs[1].clone(), 0));
        arguments.extend([gqa, gqa, NO_WINDOW as usize, dim, stored, decode.columns, chunks].map(number));
        let blocks = per_group * gqa * stored / combine.slice;
        session.launch(&flash_combine(combine), vec![([blocks, 1, count], arguments)])?;

        let mut arguments = start();
        arguments.push(Argument::Buffer(outs[2].clone(), 0));
        arguments.extend(scalars());
        session.launch(&flash_prefill(prefill.shape), vec![([1, 1, count], arguments)])?;

        for ((_, whole), out) in found.iter_mut().zip(&outs) {
            let mut of_head = vec![0.0_f32; rows * gqa * dim];
            session
                .device
                .download(out, 0, bytemuck::cast_slice_mut(&mut of_head))?;
            for (row, part) in of_head.chunks_exact(gqa * dim).enumerate() {
                whole[(row * heads + slot * gqa) * dim..][..gqa * dim].copy_from_slice(part);
            }
        }
    }
    Ok(found)
}

fn relative_distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let squares = got
        .iter()
        .zip(want)
        .map(|(&got, &want)| (f64::from(got) - f64::from(want)).powi(2));
    let size: f64 = want.iter().map(|&want| f64::from(want).powi(2)).sum();
    (squares.sum::<f64>() / size).sqrt()
}

fn check(session: &Session<'_>, golden: &Golden) {
    let mut compared = 0;
    let mut faults = Vec::new();
    for dim in [128, 256, 512] {
        let read = |name: &str| {
            golden
                .f32(&format!("d{dim}.{name}"))
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let (q, k, v, mask) = (read("q"), read("k"), read("v"), read("mask"));
        let sizes = Sizes {
            dim,
            kv_heads: k.shape[1],
            gqa: q.shape[1] / k.shape[1],
            cells: k.shape[0],
            rows: q.shape[0],
        };
        // the masks are causal: a row sees all cells up to one
        let visible: Vec<u32> = mask
            .rows()
            .map(|row| {
                let end = row.iter().take_while(|&&added| added == 0.0).count();
                assert!(row[end..].iter().all(|&added| added == f32::NEG_INFINITY));
                end as u32
            })
            .collect();
        let prefix = format!("d{dim}.out.");
        for name in golden.names().iter().filter_map(|name| name.strip_prefix(&prefix)) {
            let (keys, values) = name.split_once('.').expect("two formats");
            let names = [format(keys).name, format(values).name];
            let pair = formats::find_pair(names).expect("every pair has kernels");
            let found = outputs(session, sizes, pair, [&q.values, &k.values, &v.values], &visible);
            let found = found.unwrap_or_else(|error| panic!("d{dim} {name}: {error}"));
            let want = read(&format!("out.{name}"));
            for (kernel, got) in found {
                let distance = relative_distance(&got, &want.values);
                let limit = limit(keys, values, kernel == "attend_exact");
                println!(
                    "{} d{dim} {name} {kernel}: {distance:.1e} of {limit:.1e}",
                    session.target.name
                );
                // written so that NaN fails
                if distance.is_nan() || distance > limit {
                    faults.push(format!("d{dim} {name} {kernel}: {distance:.2e}, at most {limit:.1e}"));
                }
                compared += 1;
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(compared >= 99, "{compared} outputs compared");
}

fn goldens() -> Option<Golden> {
    require("shared", Golden::open("golden/turboquant/attention.safetensors"))
}

#[test]
fn attention_meets_the_goldens_on_the_host() {
    let Some(golden) = goldens() else { return };
    for target in ["sm_90", "gfx1150"] {
        let session = Session {
            device: &HostDevice::new(),
            target: Target::named(target).expect("the target exists"),
        };
        check(&session, &golden);
    }
}

#[test]
fn attention_meets_the_goldens_on_cuda() {
    let (Some(golden), Some(device)) = (goldens(), require("cuda", CudaDevice::open(0))) else {
        return;
    };
    let target = device.properties().target.clone();
    let session = Session {
        device: &device,
        target: &target,
    };
    check(&session, &golden);
}
