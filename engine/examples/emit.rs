use tilekiln_dsl::target::*;
use tilekiln_kernels::registry::*;
fn main() {
    let out = std::env::args().nth(1).unwrap();
    std::fs::create_dir_all(&out).unwrap();
    for e in KERNELS {
        for t in TARGETS {
            let mut sets: Vec<Vec<&str>> = vec![vec![]];
            if e.name == "row_product" {
                sets.push(vec!["weight=q6_k"]);
                sets.push(vec!["weight=q8_0"]);
            }
            if e.name == "flash_attn_tile" {
                sets.push(vec!["head_dim=512", "keys=32"]);
                sets.push(vec!["k=turbo3", "v=turbo3"]);
            }
            for s in sets {
                let st = Settings::parse(e, s).unwrap();
                let k = match (e.build)(&st).unwrap().record(t) {
                    Ok(k) => k,
                    Err(e) => {
                        println!("{e}");
                        continue;
                    }
                };
                match tilekiln_codegen::generate(&k) {
                    Ok(g) => {
                        std::fs::write(format!("{out}/{}.{}", t.name, g.file_name), &g.text).unwrap();
                    }
                    Err(e) => println!("{} {} {} {:?}", k.symbol, t.name, e.message, e.at),
                }
            }
        }
    }
}
