//! `tilekiln serve`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;

use super::engine_args::{EngineArgs, SamplingArgs};
use super::progress::{self, Reporter};
use super::{Failure, load, print};
use crate::server::{self, DEFAULT_BODY_LIMIT, Server, Settings};

/// Answer requests over HTTP, as OpenAI's API and llama-server do
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    http: HttpArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Server")]
struct HttpArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Keys that clients must send one of, separated by commas
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    api_key: Vec<String>,
    /// Name of the model for clients [default: the file's name]
    #[arg(short = 'a', long, value_name = "NAME")]
    alias: Option<String>,
    /// Origin that browsers may call from, e.g. * [default: none]
    #[arg(long, value_name = "ORIGIN")]
    cors: Option<String>,
    /// Largest request body in bytes
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_BODY_LIMIT)]
    max_body_size: usize,
    /// Requests that may wait for a slot; more get status 503
    #[arg(long, value_name = "N")]
    queue: Option<usize>,
    /// Seconds that answers have to end at shutdown
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    grace: u64,
    /// Folder for what slots hold: POST /slots/ID?action=save with {"filename": NAME} writes there [default: none]
    #[arg(long, value_name = "DIR")]
    slot_save_path: Option<PathBuf>,
    /// Accepted: /metrics is always there
    #[arg(long)]
    metrics: bool,
    /// Accepted: /slots is always there
    #[arg(long)]
    slots: bool,
    /// Print where it listens as JSON on stdout once it is ready
    #[arg(long)]
    json: bool,
}

impl Serve {
    /// Loads the model and serves until told to end.
    pub fn run(self) -> Result<(), Failure> {
        progress::init_logs(self.engine.verbose);
        let mut resolved = self.engine.resolve()?;
        self.sampling.check()?;
        let http = self.http;
        if http.api_key.iter().any(|key| key.trim().is_empty()) {
            return Err(Failure::Usage(
                "--api-key: a key is empty, so it would let everyone in".into(),
            ));
        }
        if let Some(queue) = http.queue {
            if queue == 0 {
                return Err(Failure::Usage(
                    "--queue 0: every request waits for a moment, so none would be taken; use 1".into(),
                ));
            }
            resolved.options.queue = queue;
        }
        if let Some(folder) = &http.slot_save_path
            && !folder.is_dir()
        {
            return Err(Failure::Usage(format!(
                "--slot-save-path {}: there is no such folder; create it first",
                folder.display()
            )));
        }
        let settings = Settings {
            api_keys: http.api_key,
            cors: http.cors,
            body_limit: http.max_body_size,
            grace: Duration::from_secs(http.grace),
            slot_folder: http.slot_save_path,
            ..Settings::default()
        };
        resolved.announce();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let reporter = Reporter::new(self.engine.quiet);
        let sampling = self.sampling;
        runtime.block_on(async move {
            // The port first: a taken one is told before minutes of loading, and /health says "loading" meanwhile.
            let listener = bind(&http.host, http.port).await?;
            let address = listener.local_addr()?;
            let server = Server::new(settings);
            let mut serving = tokio::spawn(server::serve(listener, server.clone(), server::listen::signals()));
            let mut loading = tokio::task::spawn_blocking(move || {
                let application = load::load(&resolved.options, &|progress| reporter.stage(progress));
                reporter.clear();
                application
            });
            tokio::select! {
                loaded = &mut loading => {
                    let mut application = loaded.map_err(|error| Failure::Failed(error.to_string()))??;
                    application.defaults = sampling.over(&application.defaults)?;
                    application.max_tokens = sampling.limit()?;
                    if let Some(alias) = http.alias {
                        application.model = alias;
                    }
                    let model = application.model.clone();
                    let description = application.description.clone();
                    // Before anybody is told that it is.
                    server.ready(application);
                    let url = format!("http://{address}");
                    eprintln!("{description}");
                    eprintln!("{model} is ready at {url} (OpenAI's API at {url}/v1)");
                    if http.json {
                        print(&format!("{}\n", json!({"url": url, "port": address.port(), "model": model})))?;
                    }
                }
                // Told to end while loading: what is loaded is not waited for.
                _ = &mut serving => std::process::exit(0),
            }
            serving.await.map_err(|error| Failure::Failed(error.to_string()))??;
            Ok(())
        })
    }
}

async fn bind(host: &str, port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((host, port)).await.map_err(|error| {
        let way_out = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; another program listens there, use another --port (0 takes a free one)",
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 are for the administrator, use another --port",
            std::io::ErrorKind::AddrNotAvailable => {
                "; this machine has no such address, use --host 127.0.0.1 or 0.0.0.0"
            }
            _ => "",
        };
        Failure::Failed(format!("cannot listen on {host}:{port}: {error}{way_out}"))
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::*;
    use crate::cli::engine_args::rewrite;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    fn parse(line: &str) -> Serve {
        let mut arguments = rewrite(line.split_whitespace().map(OsString::from));
        arguments.remove(0);
        Line::try_parse_from(arguments)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .serve
    }

    #[test]
    fn the_command_line_of_the_notes() {
        let serve = parse(
            "tilekiln serve -m T.gguf --mtp-head A.gguf --spec-type mtp --draft-block-size 3 --draft-max 8 --draft-min 0 \
             -ngl 99 -ngld 99 -ctk f16 -ctv f16 -fa on -c 16384 --host 127.0.0.1 --port 8080",
        );
        let resolved = serve.engine.resolve().expect("all of it is honoured");
        assert_eq!(resolved.notes, Vec::<String>::new());
        assert_eq!((resolved.options.drafts, resolved.options.context), (2, Some(16_384)));
        assert_eq!((serve.http.host.as_str(), serve.http.port), ("127.0.0.1", 8080));
    }

    #[test]
    fn further_flags_of_llama_server() {
        let serve = parse(
            "tilekiln serve --host 0.0.0.0 --port 0 --api-key a,b -a name --metrics --slots -np 4 -cb --jinja --no-warmup \
             -b 2048 -ub 512 -t 8 -tb 8 --temp 0.7 --top-k 64 --top-p 0.95 --min-p 0 --repeat-penalty 1 -s 3 -n -1 -v",
        );
        assert_eq!(serve.http.api_key, ["a", "b"]);
        assert_eq!(serve.http.alias.as_deref(), Some("name"));
        assert_eq!(serve.engine.resolve().expect("all of it exists").options.slots, 4);
        assert_eq!(serve.sampling.limit().expect("no limit"), None);
    }
}
