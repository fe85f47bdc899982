//! The server on a socket, and how it ends.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::Server;

/// Serves until told to shut down: then takes no more connections, gives running answers some time, and cancels what
/// is left of them.
///
/// # Errors
/// A socket that cannot be used any more.
pub async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    let serving = axum::serve(listener, server.router()).with_graceful_shutdown(async move {
        shutdown.await;
        // Nobody listens any more if serving failed meanwhile.
        let _ = asked.send(());
    });
    let deadline = async {
        if was_asked.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(server.settings.grace).await;
        server.cancel();
        // Answers end at once now. A client that does not even read the end is not waited for.
        tokio::time::sleep(server.settings.grace).await;
    };
    tokio::select! {
        result = serving.into_future() => result,
        () = deadline => Ok(()),
    }
}

/// Completes at the first Ctrl-C or SIGTERM; the second ends the process at once.
pub async fn signals() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        // The exit code that shells give for an interrupted program.
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};

    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return interrupt().await;
    };
    tokio::select! {
        () = interrupt() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    interrupt().await;
}

async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        // No such signal can come.
        std::future::pending::<()>().await;
    }
}
