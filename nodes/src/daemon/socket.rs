//! The socket in the home: whoever may read the home may use it.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use zoneward_actors::engine::HealthBoard;
use zoneward_actors::home::Home;
use zoneward_actors::node::Node;

use super::local;

/// Bytes of one request: a command, and room around it.
const BODY_LEN_MAX: usize = zoneward_consensus::limits::COMMAND_LEN_MAX + (64 << 10);
/// Seconds that requests under way get when the daemon stops.
const STOP_S: u64 = 3;

/// Serves the home's socket on a thread of its own.
pub fn serve(
    dir: &Path,
    node: &Arc<Node>,
    health: HealthBoard,
) -> std::io::Result<(ServerHandle, JoinHandle<std::io::Result<()>>)> {
    let listener = listen(dir)?;
    let shared = web::Data::new(local::Shared { node: node.clone(), health });
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("socket".into()).spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let app = move || {
                App::new()
                    .app_data(shared.clone())
                    .app_data(web::PayloadConfig::new(BODY_LEN_MAX))
                    .app_data(web::JsonConfig::default().limit(BODY_LEN_MAX))
                    .configure(local::routes)
            };
            let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(STOP_S);
            let server = server.listen_uds(listener)?.run();
            // If nobody waits for it any more, the server is dropped with this.
            let _ = ready.send(server.handle());
            server.await
        })
    })?;
    match is_ready.recv() {
        Ok(handle) => Ok((handle, thread)),
        Err(_) => match thread.join() {
            Ok(Err(e)) => Err(e),
            _ => Err(std::io::Error::other("the server ended at once")),
        },
    }
}

/// Binds the socket. The home's lock is held, so a socket that lies there is a leftover.
fn listen(dir: &Path) -> std::io::Result<UnixListener> {
    let path = Home::socket(dir);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // A socket's path has at most 107 bytes; by way of the opened folder it is short, wherever the home lies.
    let folder = std::fs::File::open(dir)?;
    let listener = UnixListener::bind(short(&folder))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The socket's path by way of its opened folder.
pub fn short(folder: &std::fs::File) -> String {
    format!("/proc/self/fd/{}/zoneward.sock", folder.as_raw_fd())
}
