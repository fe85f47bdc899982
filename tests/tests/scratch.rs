use std::sync::Arc;
use tilekiln_dsl::target::Target;
use tilekiln_kernels::attention::{formats, pages::PAGE, partition};
use tilekiln_kernels::registry::{self, Settings};
use tilekiln_runtime::cuda::CudaDevice;
use tilekiln_runtime::device::*;
use tilekiln_runtime::host::HostDevice;

fn rnd(seed: &mut u64) -> f32 {
    let mut s = 0.0;
    for _ in 0..4 {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        s += ((*seed >> 33) as f32) / (1u64 << 31) as f32 - 0.5;
    }
    s * 1.7
}

fn load(d: &dyn Device, target: &Target, name: &str, sets: &[String]) -> Loaded {
    let e = registry::find(name).unwrap();
    let s = Settings::parse(e, sets.iter().map(String::as_str)).unwrap();
    let k = (e.build)(&s).unwrap().record(target).unwrap_or_else(|r| panic!("{r}"));
    d.load(vec![Arc::new(k)]).unwrap_or_else(|e| panic!("{e}")).remove(0)
}
fn up<T: bytemuck::NoUninit>(d: &dyn Device, v: &[T]) -> Argument {
    let b: &[u8] = bytemuck::cast_slice(v);
    let x = d.allocate(b.len()).unwrap();
    d.upload(&x, 0, b).unwrap();
    Argument::Buffer(x, 0)
}
fn out(d: &dyn Device, n: usize) -> (Buffer, Argument) {
    let x = d.allocate(n).unwrap();
    d.fill(&x, 0xff).unwrap();
    (x.clone(), Argument::Buffer(x, 0))
}
fn zero(d: &dyn Device, n: usize) -> Argument {
    let x = d.allocate(n).unwrap();
    d.fill(&x, 0).unwrap();
    Argument::Buffer(x, 0)
}

#[allow(clippy::too_many_arguments)]
fn case(
    d: &dyn Device,
    target: &Target,
    k: &str,
    v: &str,
    hd: usize,
    gqa: usize,
    rows: usize,
    keys: usize,
    window: u32,
    tiles: usize,
    teams: usize,
) {
    let mut seed = 7u64 + keys as u64 * 31 + hd as u64;
    let kvh = 2;
    let heads = kvh * gqa;
    let slots = 2;
    let slot = 1u32;
    let slot_pages = if window == u32::MAX {
        keys.div_ceil(PAGE) + 1
    } else {
        (window as usize + rows).div_ceil(PAGE) + 1
    };
    let n_pages = slots * slot_pages;
    let table: Vec<u32> = (0..n_pages as u32).rev().collect();
    let f = [formats::find(k).unwrap(), formats::find(v).unwrap()];
    let ck = zero(d, n_pages * kvh * (f[0].page_bytes)(hd));
    let cv = zero(d, n_pages * kvh * (f[1].page_bytes)(hd));
    let kx: Vec<f32> = (0..keys * kvh * hd).map(|_| rnd(&mut seed)).collect();
    let vx: Vec<f32> = (0..keys * kvh * hd).map(|_| rnd(&mut seed)).collect();
    let mut q: Vec<f32> = (0..rows * heads * hd).map(|_| rnd(&mut seed)).collect();
    for h in q.chunks_mut(hd) {
        let s: f32 = h.iter().map(|x| x * x).sum::<f32>() / hd as f32;
        let r = 1.0 / (s + 1e-6).sqrt();
        h.iter_mut().for_each(|x| *x *= r * 0.3);
    }
    let kv = [format!("k={k}"), format!("v={v}"), format!("head_dim={hd}")];
    let w = load(d, target, "cache_write", &kv);
    let chunk = 200.min(keys);
    let tab = up(d, &table);
    let ones = up(d, &vec![1f32; hd]);
    let third = up(d, &vec![0.3f32; hd]);
    let freq = up(d, &vec![0f32; hd / 2]);
    let mut at = 0;
    while at < keys {
        let n = chunk.min(keys - at);
        let pos: Vec<u32> = (at as u32..(at + n) as u32).collect();
        d.launch(
            &w,
            &Launch {
                grid: [n as u32, kvh as u32, 1],
                arguments: vec![
                    up(d, &kx[at * kvh * hd..(at + n) * kvh * hd]),
                    up(d, &vx[at * kvh * hd..(at + n) * kvh * hd]),
                    ones.clone(),
                    up(d, &pos),
                    up(d, &vec![slot; n]),
                    freq.clone(),
                    tab.clone(),
                    ck.clone(),
                    cv.clone(),
                    Argument::U32(kvh as u32),
                    Argument::U32(slot_pages as u32),
                    Argument::F32(1e-6),
                ],
                dependent: false,
            },
        )
        .unwrap();
        at += n;
    }
    let first = keys - rows;
    let pos: Vec<u32> = (first as u32..keys as u32).collect();
    let vis: Vec<u32> = pos.iter().map(|p| p + 1).collect();
    let qa = up(d, &q);
    let pa = up(d, &pos);
    let va = up(d, &vis);
    let scal = |x: &[u32]| x.iter().map(|v| Argument::U32(*v)).collect::<Vec<_>>();
    // exact
    let ex = load(d, target, "attend_exact", &kv);
    let (eb, ea) = out(d, rows * heads * hd * 4);
    let mut args = vec![
        qa.clone(),
        ck.clone(),
        cv.clone(),
        tab.clone(),
        up(d, &vec![slot; rows]),
        pa.clone(),
        va.clone(),
        ea,
    ];
    args.extend(scal(&[heads as u32, gqa as u32, slot_pages as u32, window]));
    d.launch(
        &ex,
        &Launch {
            grid: [rows as u32, heads as u32, 1],
            arguments: args,
            dependent: false,
        },
    )
    .unwrap();
    // decode
    let mut sets = kv.to_vec();
    sets.push("pages=2".into());
    sets.push(format!("tiles={tiles}"));
    sets.push(format!("teams={teams}"));
    let c = target.fragments.columns() * tiles * teams;
    let per = (c / gqa).max(1).min(rows);
    let groups: Vec<u32> = (0..rows.div_ceil(per))
        .flat_map(|g| [(g * per) as u32, per.min(rows - g * per) as u32, slot])
        .collect();
    let ga = up(d, &groups);
    let ng = groups.len() / 3;
    let dec = load(d, target, "flash_decode", &sets);
    let prep = load(
        d,
        target,
        "prepare_queries",
        &kv[..1].iter().cloned().chain([kv[2].clone()]).collect::<Vec<_>>(),
    );
    // undo the norm: the reference uses the raw query, so give each a weight
    let qw = f[0].fast.unwrap().query_words(hd);
    let (_, qp) = out(d, rows * heads * qw * 4);
    d.launch(
        &prep,
        &Launch {
            grid: [rows as u32, heads as u32, 1],
            arguments: vec![
                qa.clone(),
                third.clone(),
                pa.clone(),
                freq.clone(),
                qp.clone(),
                Argument::U32(heads as u32),
                Argument::F32(1e-6),
            ],
            dependent: false,
        },
    )
    .unwrap();
    let chunks = partition::chunks(keys, window, per);
    let stored = (f[1].stored)(hd);
    let (_, part) = out(d, ng * kvh * chunks * c * stored * 4);
    let (_, worth) = out(d, ng * kvh * chunks * c * 8);
    let (db, da) = out(d, rows * heads * hd * 4);
    let mut args = vec![
        qp.clone(),
        ck.clone(),
        cv.clone(),
        tab.clone(),
        ga.clone(),
        pa.clone(),
        va.clone(),
        part.clone(),
        worth.clone(),
    ];
    args.extend(scal(&[heads as u32, gqa as u32, slot_pages as u32, window]));
    d.launch(
        &dec,
        &Launch {
            grid: [chunks as u32, kvh as u32, ng as u32],
            arguments: args,
            dependent: false,
        },
    )
    .unwrap();
    let slice = stored.min(128);
    let com = load(
        d,
        target,
        "flash_combine",
        &[
            "warps=8".into(),
            format!("slice={slice}"),
            format!("rotated={}", f[1].rotated),
        ],
    );
    let mut args = vec![part, worth, ga.clone(), pa.clone(), va.clone(), da];
    args.extend(scal(&[
        heads as u32,
        gqa as u32,
        window,
        hd as u32,
        stored as u32,
        c as u32,
        chunks as u32,
    ]));
    d.launch(
        &com,
        &Launch {
            grid: [(c * stored / slice) as u32, kvh as u32, ng as u32],
            arguments: args,
            dependent: false,
        },
    )
    .unwrap();
    let pre = load(d, target, "flash_prefill", &sets);
    let (fb, fa) = out(d, rows * heads * hd * 4);
    let mut args = vec![qp, ck, cv, tab, ga, pa, va, fa];
    args.extend(scal(&[heads as u32, gqa as u32, slot_pages as u32, window]));
    d.launch(
        &pre,
        &Launch {
            grid: [1, kvh as u32, ng as u32],
            arguments: args,
            dependent: false,
        },
    )
    .unwrap();
    let get = |b: &Buffer| {
        let mut v = vec![0f32; rows * heads * hd];
        d.download(b, 0, bytemuck::cast_slice_mut(&mut v)).unwrap();
        v
    };
    let (e, de, pf) = (get(&eb), get(&db), get(&fb));
    // reference
    let norm = |x: &[f32]| {
        let s: f64 = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / x.len() as f64;
        let r = 1.0 / (s + 1e-6).sqrt();
        x.iter().map(|v| *v as f64 * r).collect::<Vec<f64>>()
    };
    let mut want = vec![0f64; rows * heads * hd];
    for h in 0..kvh {
        let kn: Vec<_> = (0..keys).map(|j| norm(&kx[(j * kvh + h) * hd..][..hd])).collect();
        let vn: Vec<_> = (0..keys).map(|j| norm(&vx[(j * kvh + h) * hd..][..hd])).collect();
        for r in 0..rows {
            for g in 0..gqa {
                let qh = &q[(r * heads + h * gqa + g) * hd..][..hd];
                let p = pos[r] as usize;
                let b = (p + 1).saturating_sub(window as usize);
                let s: Vec<f64> = (b..=p)
                    .map(|j| kn[j].iter().zip(qh).map(|(a, b)| a * *b as f64).sum())
                    .collect();
                let m = s.iter().cloned().fold(f64::MIN, f64::max);
                let w: Vec<f64> = s.iter().map(|x| (x - m).exp()).collect();
                let t: f64 = w.iter().sum();
                for (i, j) in (b..=p).enumerate() {
                    for x in 0..hd {
                        want[(r * heads + h * gqa + g) * hd + x] += w[i] / t * vn[j][x];
                    }
                }
            }
        }
    }
    let err = |a: &[f32], b: &[f64]| {
        let n: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - b).powi(2)).sum();
        let t: f64 = b.iter().map(|b| b * b).sum();
        (n / t).sqrt()
    };
    let e64: Vec<f64> = e.iter().map(|x| *x as f64).collect();
    println!(
        "{k:>8} {v:>8} hd{hd} g{gqa} r{rows} keys{keys} win{window} t{tiles}x{teams} {}: exact-ref {:.2e} decode-exact {:.2e} prefill-exact {:.2e}",
        target.name,
        err(&e, &want),
        err(&de, &e64),
        err(&pf, &e64)
    );
}
#[test]
fn scratch() {
    let gpu = CudaDevice::open(0);
    let host = HostDevice::new();
    let list: Vec<(&dyn Device, Target)> = match &gpu {
        Ok(g) => vec![(g as &dyn Device, g.properties().target.clone())],
        Err(_) => vec![
            (&host, Target::named("sm_90").unwrap().clone()),
            (&host, Target::named("gfx1150").unwrap().clone()),
        ],
    };
    for (d, t) in &list {
        for (k, v) in [
            ("f16", "f16"),
            ("turbo3", "turbo3"),
            ("q8_0", "q4_0"),
            ("q4_0", "q8_0"),
            ("bf16", "bf16"),
            ("turbo4", "turbo2"),
            ("turbo2", "turbo4"),
            ("f16", "turbo3"),
            ("turbo3", "f16"),
        ] {
            case(*d, t, k, v, 128, 2, 2, 150, u32::MAX, 1, 1);
            case(*d, t, k, v, 64, 4, 2, 99, u32::MAX, 1, 1);
            case(
                *d,
                t,
                k,
                v,
                256,
                3,
                4,
                190,
                100,
                1,
                if t.name == "gfx1150" { 1 } else { 2 },
            );
            case(*d, t, k, v, 512, 4, 3, 130, 70, 2, 1);
        }
    }
}
