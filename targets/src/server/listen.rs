//! HTTP over TLS on connections that are read ahead.
//!
//! rustls asks its connection for 4 KiB at a time: each record of a sector would cost five calls of the system. A buffer
//! below it takes what the kernel has at once, and rustls reads from that.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Server, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::{App, Error};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::limits::{CONNECT_TIME, CONNECTIONS_MAX, KEEP_ALIVE, READ_AHEAD, REQUEST_TIME};

/// Serves what `app` makes, once for each of `workers` threads.
pub(super) fn over_tls<F, T, B>(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    workers: usize,
    shutdown_s: u64,
    app: F,
) -> io::Result<Server>
where
    F: Fn() -> App<T> + Send + Clone + 'static,
    T: ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<B>, Error = Error, InitError = ()>
        + 'static,
    B: MessageBody + 'static,
{
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(CONNECTIONS_MAX.div_ceil(workers))
        .shutdown_timeout(shutdown_s)
        .disable_signals();
    let ending = builder.graceful_shutdown_signal();
    let server = builder.listen("target-server", listener, move || {
        let ending = ending.clone();
        let http = HttpService::build()
            .secure()
            .graceful_shutdown_signal(move || {
                let ending = ending.clone();
                async move { ending.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(REQUEST_TIME)
            .finish(map_config(app().into_factory().map_err(|e| e.error_response()), |_| AppConfig::default()));
        let acceptor = acceptor.clone();
        fn_service(move |tcp: TcpStream| {
            let acceptor = acceptor.clone();
            async move {
                let peer = tcp.peer_addr().ok();
                tcp.set_nodelay(true).map_err(DispatchError::Io)?;
                let shaken = acceptor.accept(BufReader::with_capacity(READ_AHEAD, tcp));
                let late = |_| io::Error::from(io::ErrorKind::TimedOut);
                let stream = tokio::time::timeout(CONNECT_TIME, shaken).await.map_err(late).flatten();
                Ok((stream.map_err(DispatchError::Io)?, Protocol::Http1, peer))
            }
        })
        .and_then(http)
    })?;
    Ok(server.run())
}
