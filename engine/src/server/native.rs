//! Paths beside the completions, as llama-server has them.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::completions::{begun, blocking};
use super::error::ApiError;
use super::text::decode;
use super::{Application, Server, request};
use crate::schedule::{ServiceStatus, SlotAction, SlotRefusal};

type Shared = State<Arc<Server>>;
type Body = Result<Bytes, BytesRejection>;

/// `GET /`
pub async fn index(State(server): Shared) -> String {
    let model = match server.application() {
        Ok(application) => application.description.clone(),
        Err(error) => error.to_string(),
    };
    format!(
        "tilekiln {}: {model}\nPOST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /health, GET /metrics\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// `GET /health`
///
/// # Errors
/// Until the model is loaded, and once the server shuts down.
pub async fn health(State(server): Shared) -> Result<Json<Value>, ApiError> {
    server.application()?;
    Ok(Json(json!({"status": "ok"})))
}

/// `GET /metrics`
pub async fn metrics(State(server): Shared) -> Response {
    let status = server
        .application()
        .ok()
        .map(|application| application.service.status());
    let text = server.metrics.render(status);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

fn describe(server: &Server, application: &Application) -> Value {
    json!({
        "id": application.model,
        "object": "model",
        "created": server.started,
        "owned_by": "tilekiln",
        "meta": {
            "n_ctx": application.service.status().context,
            "n_ctx_train": application.trained_context,
            "n_params": application.parameters,
            "size": application.bytes,
        },
    })
}

/// `GET /v1/models`
///
/// # Errors
/// Until the model is loaded.
pub async fn models(State(server): Shared) -> Result<Json<Value>, ApiError> {
    let application = server.application()?;
    Ok(Json(
        json!({"object": "list", "data": [describe(&server, application)]}),
    ))
}

/// `GET /v1/models/{name}`
///
/// # Errors
/// Names of other models.
pub async fn model(State(server): Shared, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let application = server.application()?;
    if name != application.model {
        return Err(ApiError::UnknownModel {
            name,
            served: application.model.clone(),
        });
    }
    Ok(Json(describe(&server, application)))
}

/// `GET /props`
///
/// # Errors
/// Until the model is loaded.
pub async fn props(State(server): Shared) -> Result<Json<Value>, ApiError> {
    let application = server.application()?;
    let status = application.service.status();
    let language = &application.language;
    let text = |token: u32| String::from_utf8_lossy(&language.piece(token).unwrap_or_default()).into_owned();
    let defaults = &application.defaults;
    Ok(Json(json!({
        "default_generation_settings": {
            "n_ctx": status.context,
            "params": {
                "n_predict": application.max_tokens.map_or(json!(-1), Value::from),
                "temperature": defaults.temperature,
                "top_k": defaults.top_k,
                "top_p": defaults.top_p,
                "min_p": defaults.min_p,
                "repeat_penalty": defaults.repetition_penalty,
                "repeat_last_n": defaults.penalty_window,
                "presence_penalty": defaults.presence_penalty,
                "frequency_penalty": defaults.frequency_penalty,
                "seed": defaults.seed.map_or(json!(-1), Value::from),
            },
        },
        "total_slots": status.slots,
        "model_alias": application.model,
        "model_path": application.path,
        "description": application.description,
        "modalities": {"vision": false, "audio": false},
        "chat_template": language.template(),
        "bos_token": language.begin().map(text),
        "eos_token": language.end_tokens().first().copied().map(text),
        "build_info": concat!("tilekiln ", env!("CARGO_PKG_VERSION")),
    })))
}

/// `GET /slots`: as many as there are, and how many of them run. Which request runs where is the service's business.
///
/// # Errors
/// Until the model is loaded.
pub async fn slots(State(server): Shared) -> Result<Json<Value>, ApiError> {
    let ServiceStatus {
        slots, busy, context, ..
    } = server.application()?.service.status();
    let slot = |id: usize| json!({"id": id, "n_ctx": context, "is_processing": id < busy});
    Ok(Json((0..slots).map(slot).collect()))
}

/// What `POST /slots/{id}` is asked to do.
#[derive(Deserialize)]
pub struct Asked {
    action: String,
}

/// `POST /slots/{id}?action=save|restore|erase`: what a slot holds goes to a file of the server's folder, comes back from
/// it, or is forgotten.
///
/// # Errors
/// Slots and actions that do not exist, slots that are answering, and files that do not belong here.
pub async fn slot(
    State(server): Shared,
    Path(id): Path<usize>,
    Query(Asked { action }): Query<Asked>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let service = server.application()?.service.clone();
    let named = || -> Result<(String, PathBuf), ApiError> {
        let folder = server.settings.slot_folder.as_ref().ok_or(ApiError::NoSlotFolder)?;
        let name = request::file_name(&server.body(&headers, body)?)?;
        Ok((name.clone(), folder.join(name)))
    };
    let (name, asked) = match action.as_str() {
        "save" => {
            let (name, path) = named()?;
            (Some(name), SlotAction::Save(path))
        }
        "restore" => {
            let (name, path) = named()?;
            (Some(name), SlotAction::Restore(path))
        }
        "erase" => (None, SlotAction::Erase),
        other => return Err(request::unknown_action(other).into()),
    };
    let stopped = |_| SlotRefusal::Stopped("its thread has ended".to_owned());
    let done = service.slot(id, asked).await.map_err(stopped)??;
    let milliseconds = done.time.as_secs_f64() * 1e3;
    Ok(Json(match action.as_str() {
        "save" => json!({
            "id_slot": id, "filename": name, "n_saved": done.tokens, "n_written": done.bytes,
            "timings": {"save_ms": milliseconds},
        }),
        "restore" => json!({
            "id_slot": id, "filename": name, "n_restored": done.tokens, "n_read": done.bytes,
            "timings": {"restore_ms": milliseconds},
        }),
        _ => json!({"id_slot": id, "n_erased": done.tokens}),
    }))
}

/// `POST /tokenize`
///
/// # Errors
/// Bodies that are no such request.
pub async fn tokenize(State(server): Shared, headers: HeaderMap, body: Body) -> Result<Json<Value>, ApiError> {
    let body = server.body(&headers, body)?;
    let language = server.application()?.language.clone();
    blocking(move || {
        let asked = request::tokenize(&body)?;
        let mut tokens = language.encode(&asked.content, asked.parse_special);
        if asked.add_special {
            tokens = begun(&*language, tokens);
        }
        let pieced = |token: &u32| {
            let bytes = language.piece(*token).unwrap_or_default();
            // Bytes that are no character are given as numbers.
            let piece = String::from_utf8(bytes).map_or_else(|error| json!(error.into_bytes()), Value::from);
            json!({"id": token, "piece": piece})
        };
        let list: Value = if asked.with_pieces {
            tokens.iter().map(pieced).collect()
        } else {
            json!(tokens)
        };
        Ok(Json(json!({"tokens": list})))
    })
    .await
}

/// `POST /detokenize`
///
/// # Errors
/// Bodies that are no such request, and tokens that do not exist.
pub async fn detokenize(State(server): Shared, headers: HeaderMap, body: Body) -> Result<Json<Value>, ApiError> {
    let body = server.body(&headers, body)?;
    let language = server.application()?.language.clone();
    blocking(move || {
        let tokens = request::detokenize(&body)?;
        if let Some((i, token)) = tokens
            .iter()
            .enumerate()
            .find(|(_, token)| language.piece(**token).is_none())
        {
            return Err(request::unknown_token(i, *token).into());
        }
        Ok(Json(json!({"content": decode(&*language, &tokens)})))
    })
    .await
}

/// `POST /apply-template`
///
/// # Errors
/// Bodies that are no conversation, and conversations that the template refuses.
pub async fn apply_template(State(server): Shared, headers: HeaderMap, body: Body) -> Result<Json<Value>, ApiError> {
    let body = server.body(&headers, body)?;
    let language = server.application()?.language.clone();
    blocking(move || {
        let chat = request::template(&body)?;
        let prompt = language.render(&chat)?;
        Ok(Json(json!({"prompt": prompt})))
    })
    .await
}
