//! The OpenAI-compatible HTTP server.
//!
//! It knows a [`Service`] and a [`Language`], and nothing of models or devices: [`request`] checks bodies, [`text`]
//! and [`answer`] turn events into text, [`completions`] and [`native`] are the paths, [`error`] is what goes wrong.

pub mod answer;
pub mod completions;
pub mod error;
pub mod language;
pub mod listen;
pub mod metrics;
pub mod native;
pub mod request;
pub mod text;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;

use crate::model::LayerPolicy;
use crate::sample;
use crate::schedule::Service;
pub use error::ApiError;
pub use listen::serve;
use metrics::Metrics;
use text::Language;

/// Largest body when nothing is said.
pub const DEFAULT_BODY_LIMIT: usize = 32 << 20;

/// A loaded model, as the server and `tilekiln run` see it.
#[derive(Clone)]
pub struct Application {
    /// What continues prompts.
    pub service: Arc<dyn Service>,
    /// Its tokens and conversations.
    pub language: Arc<dyn Language>,
    /// How tokens are chosen when a request does not say.
    pub defaults: sample::Settings,
    /// Tokens of an answer at most when a request does not say.
    pub max_tokens: Option<usize>,
    /// The model's name.
    pub model: String,
    /// Where it comes from, for `/props`.
    pub path: String,
    /// One line about what runs where.
    pub description: String,
    /// What was chosen for the attention of each layer.
    pub policy: Vec<LayerPolicy>,
    /// Positions the model was made for.
    pub trained_context: usize,
    /// Parameters of the model.
    pub parameters: u64,
    /// Bytes of its weights.
    pub bytes: u64,
}

/// How the server behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Keys that let in; none lets everyone in.
    pub api_keys: Vec<String>,
    /// Origin that browsers may call from (`*` for all).
    pub cors: Option<String>,
    /// Largest body.
    pub body_limit: usize,
    /// Silence after which a stream says that it is alive.
    pub keep_alive: Duration,
    /// Time that answers have to end by themselves at shutdown.
    pub grace: Duration,
    /// Folder for what slots hold; none saves nothing.
    pub slot_folder: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            cors: None,
            body_limit: DEFAULT_BODY_LIMIT,
            keep_alive: Duration::from_secs(5),
            grace: Duration::from_secs(5),
            slot_folder: None,
        }
    }
}

/// A server: what all requests share. The model may come later than the first request.
pub struct Server {
    application: OnceLock<Application>,
    settings: Settings,
    metrics: Arc<Metrics>,
    stopping: watch::Sender<bool>,
    started: u64,
}

impl Server {
    /// A server without a model. Until there is one it answers 503.
    #[must_use]
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            application: OnceLock::new(),
            settings,
            metrics: Arc::new(Metrics::new()),
            stopping: watch::Sender::new(false),
            started: now(),
        })
    }

    /// Gives it its model. A second one is not taken.
    pub fn ready(&self, application: Application) {
        // The first stays: requests may run on it.
        let _ = self.application.set(application);
    }

    /// Ends all answers.
    pub fn cancel(&self) {
        self.stopping.send_replace(true);
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn application(&self) -> Result<&Application, ApiError> {
        if *self.stopping.borrow() {
            return Err(ApiError::Stopping);
        }
        self.application.get().ok_or(ApiError::Loading)
    }

    /// All paths.
    pub fn router(self: &Arc<Self>) -> Router {
        let chat = post(completions::chat);
        Router::new()
            .route("/", get(native::index))
            .route("/health", get(native::health))
            .route("/v1/health", get(native::health))
            .route("/metrics", get(native::metrics))
            .route("/props", get(native::props))
            .route("/slots", get(native::slots))
            .route("/slots/{id}", post(native::slot))
            .route("/tokenize", post(native::tokenize))
            .route("/detokenize", post(native::detokenize))
            .route("/apply-template", post(native::apply_template))
            .route("/models", get(native::models))
            .route("/v1/models", get(native::models))
            .route("/models/{*name}", get(native::model))
            .route("/v1/models/{*name}", get(native::model))
            .route("/chat/completions", chat.clone())
            .route("/v1/chat/completions", chat)
            .route("/v1/completions", post(completions::completions))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
            .layer(DefaultBodyLimit::max(self.settings.body_limit))
            .layer(middleware::from_fn_with_state(self.clone(), admit))
            .layer(middleware::from_fn_with_state(self.clone(), count))
            .with_state(self.clone())
    }

    /// The body of a request that has to be JSON.
    fn body(&self, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
        if let Some(given) = headers.get(header::CONTENT_TYPE) {
            let given = String::from_utf8_lossy(given.as_bytes()).into_owned();
            let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
                return Err(ApiError::ContentType { given });
            }
        }
        body.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::TooLarge {
                    limit: self.settings.body_limit,
                }
            } else {
                ApiError::Body(rejection.body_text())
            }
        })
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::NotFound {
        path: request.uri().path().to_string(),
    }
}

async fn unknown_method(request: Request) -> ApiError {
    ApiError::Method {
        path: request.uri().path().to_string(),
        method: request.method().to_string(),
    }
}

/// Paths that need no key: those that tell whether the server works and what it serves.
const PUBLIC: &[&str] = &["/", "/health", "/v1/health", "/models", "/v1/models"];

/// Lets requests in that have a key, and tells browsers where they may call from.
async fn admit(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS && server.settings.cors.is_some();
    let mut response = if is_preflight {
        StatusCode::NO_CONTENT.into_response()
    } else if PUBLIC.contains(&request.uri().path()) || has_key(&server.settings.api_keys, request.headers()) {
        next.run(request).await
    } else {
        ApiError::Unauthorized.into_response()
    };
    if let Some(origin) = &server.settings.cors
        && let Ok(origin) = HeaderValue::from_str(origin)
    {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if is_preflight {
            let (methods, all) = (
                HeaderValue::from_static("GET, POST, OPTIONS"),
                HeaderValue::from_static("*, Authorization"),
            );
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, all);
        }
    }
    response
}

fn has_key(keys: &[String], headers: &HeaderMap) -> bool {
    if keys.is_empty() {
        return true;
    }
    let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = bearer.and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
    });
    let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
    given.is_some_and(|given| {
        // All keys are compared, so time does not tell which one is close.
        keys.iter()
            .fold(false, |found, key| same(key.as_bytes(), given.trim_ascii()) | found)
    })
}

/// Compares in a time that depends on lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (x, y)| sum | std::hint::black_box(x ^ y));
    std::hint::black_box(differences) == 0 && a.len() == b.len()
}

/// Counts requests by path and status.
async fn count(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    // Paths that do not exist are counted together: clients must not be able to grow the list.
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
        .to_string();
    let method = request.method().clone();
    let response = next.run(request).await;
    let status = response.status();
    server.metrics.request(&path, status.as_u16());
    tracing::info!(%method, path, status = status.as_u16(), "request");
    response
}
