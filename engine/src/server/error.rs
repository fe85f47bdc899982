//! What goes wrong, as HTTP: a status and OpenAI's error JSON.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::request::Invalid;
use super::text::NoPrompt;
use crate::schedule::{Refusal, SlotRefusal};

/// Seconds after which a client may try again when too many requests wait.
const RETRY_SECONDS: u16 = 1;
/// Seconds after which a client may try again when the model is not loaded yet.
const LOADING_SECONDS: u16 = 5;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The body is no valid request.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The conversation cannot be made a prompt.
    #[error("the messages are no prompt: {0}")]
    NoPrompt(#[from] NoPrompt),
    /// The service does not take it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Nothing was done with a slot.
    #[error("{0}")]
    Slot(#[from] SlotRefusal),
    /// The server was not told where slots are saved.
    #[error("slots are not saved here; start the server with --slot-save-path DIR")]
    NoSlotFolder,
    /// No key, or a wrong one.
    #[error("a valid API key is needed: send `Authorization: Bearer KEY` with the key the server was started with")]
    Unauthorized,
    /// No such path.
    #[error(
        "there is no {path}; there are /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics, /props, /slots, /slots/ID, /tokenize, /detokenize and /apply-template"
    )]
    NotFound {
        /// What was asked for.
        path: String,
    },
    /// The path exists, but not for this method.
    #[error("{path} does not take {method}")]
    Method {
        /// What was asked for.
        path: String,
        /// With which method.
        method: String,
    },
    /// No model of that name.
    #[error("there is no model `{name}`; the one that is served is `{served}`")]
    UnknownModel {
        /// The name.
        name: String,
        /// The one there is.
        served: String,
    },
    /// The body is too large.
    #[error("the body is larger than {limit} bytes; send less, or start the server with a larger --max-body-size")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The body says it is something else than JSON.
    #[error("the content type is `{given}`; send JSON with `Content-Type: application/json`")]
    ContentType {
        /// What it says.
        given: String,
    },
    /// The body did not arrive.
    #[error("the body could not be read: {0}")]
    Body(String),
    /// The model is not loaded yet.
    #[error("the model is being loaded; try again later")]
    Loading,
    /// The server ends.
    #[error("the server is shutting down")]
    Stopping,
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Failed(String),
}

impl ApiError {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) | Self::NoPrompt(NoPrompt::Conversation { .. }) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Refused(refusal) => match refusal {
                Refusal::TooLong { .. } | Refusal::Empty | Refusal::UnknownToken { .. } | Refusal::Sampling(_) => {
                    StatusCode::BAD_REQUEST
                }
                Refusal::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
                Refusal::Stopped(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Slot(refusal) => match refusal {
                SlotRefusal::Unknown { .. } => StatusCode::NOT_FOUND,
                SlotRefusal::Busy(_) => StatusCode::CONFLICT,
                SlotRefusal::Failed(_) => StatusCode::BAD_REQUEST,
                SlotRefusal::Unsupported => StatusCode::NOT_IMPLEMENTED,
                SlotRefusal::Stopped(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::NoSlotFolder => StatusCode::NOT_IMPLEMENTED,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound { .. } | Self::UnknownModel { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Loading | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) | Self::NoPrompt(NoPrompt::Template(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// OpenAI's words for the class and the cause, and the field.
    fn terms(&self) -> (&'static str, Option<&'static str>, Option<Cow<'_, str>>) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::Invalid(invalid) => (INVALID, Some(invalid.code), invalid.param.as_deref().map(Cow::from)),
            Self::NoPrompt(NoPrompt::Conversation { message, .. }) => {
                let param = message.map_or("messages".into(), |index| format!("messages[{index}]").into());
                (INVALID, Some("invalid_conversation"), Some(param))
            }
            Self::NoPrompt(NoPrompt::Template(_)) => ("server_error", Some("template_failed"), None),
            Self::Refused(refusal) => match refusal {
                Refusal::TooLong { .. } => (INVALID, Some("context_length_exceeded"), None),
                Refusal::Empty => (INVALID, Some("empty_prompt"), Some("prompt".into())),
                Refusal::UnknownToken { .. } => (INVALID, Some("unknown_token"), Some("prompt".into())),
                Refusal::Sampling(_) => (INVALID, Some("invalid_value"), None),
                Refusal::Busy { .. } => ("unavailable_error", Some("queue_full"), None),
                Refusal::Stopped(_) => ("server_error", Some("engine_failed"), None),
            },
            Self::Slot(refusal) => match refusal {
                SlotRefusal::Unknown { .. } => (INVALID, Some("unknown_slot"), Some("id_slot".into())),
                SlotRefusal::Busy(_) => (INVALID, Some("slot_busy"), Some("id_slot".into())),
                SlotRefusal::Failed(_) => (INVALID, Some("slot_file"), Some("filename".into())),
                SlotRefusal::Unsupported => ("not_supported_error", Some("slots_not_saved"), None),
                SlotRefusal::Stopped(_) => ("server_error", Some("engine_failed"), None),
            },
            Self::NoSlotFolder => ("not_supported_error", Some("slots_not_saved"), None),
            Self::Unauthorized => ("authentication_error", Some("invalid_api_key"), None),
            Self::NotFound { .. } => (INVALID, Some("unknown_path"), None),
            Self::UnknownModel { .. } => (INVALID, Some("model_not_found"), Some("model".into())),
            Self::Method { .. } => (INVALID, Some("method_not_allowed"), None),
            Self::TooLarge { .. } => (INVALID, Some("body_too_large"), None),
            Self::ContentType { .. } => (INVALID, Some("unsupported_content_type"), None),
            Self::Body(_) => (INVALID, Some("unreadable_body"), None),
            Self::Loading => ("unavailable_error", Some("loading"), None),
            Self::Stopping => ("unavailable_error", Some("shutting_down"), None),
            Self::Failed(_) => ("server_error", Some("engine_failed"), None),
        }
    }

    /// The error as JSON.
    #[must_use]
    pub fn body(&self) -> Value {
        let (kind, code, param) = self.terms();
        json!({"error": {"message": self.to_string(), "type": kind, "param": param, "code": code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Refused(Refusal::Busy { .. }) => {
                headers.insert(header::RETRY_AFTER, RETRY_SECONDS.into());
            }
            Self::Loading => {
                headers.insert(header::RETRY_AFTER, LOADING_SECONDS.into());
            }
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
