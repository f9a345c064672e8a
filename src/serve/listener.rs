//! The listener: TCP, with TLS if a certificate is given.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::clock;

/// Maximum time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most handshakes at once.
const MOST_HANDSHAKES: usize = 256;
/// How long a connection may be without any byte, which is longer than a request may wait.
const IDLE: Duration = Duration::from_secs(120);
/// Open files of a process, where the system does not tell how many it allows.
const USUAL_FILES: usize = 1_024;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("{path}: {source}; a PEM file is expected", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate and the key do not fit each other, or cannot be used.
    #[error("the certificate {path} cannot be used with its key: {source}", path = path.display())]
    Unusable {
        /// The file of the certificate.
        path: PathBuf,
        /// Why it cannot be used.
        source: rustls::Error,
    },
}

/// Returns the TLS of a server with the certificates (its own first) and the key in two PEM files.
///
/// # Errors
/// When a file cannot be read or used.
pub fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let certificates = CertificateDer::pem_file_iter(certificate).map_err(pem(certificate))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(pem(certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let unusable = |source| TlsError::Unusable { path: certificate.to_owned(), source };
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let mut config = config.with_no_client_auth().with_single_cert(certificates, key).map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listener of the interface.
pub struct ServedListener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handshakes: JoinSet<Option<(ServedConnection, SocketAddr)>>,
    /// Room for connections; the other half of the open files is for journals and providers.
    places: Arc<Semaphore>,
}

/// Returns how many files this process may have open (proc(5)).
fn most_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    files.and_then(|files| files.split_whitespace().next()?.parse().ok()).unwrap_or(USUAL_FILES)
}

impl ServedListener {
    /// Binds an address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(address: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let places = Arc::new(Semaphore::new((most_files() / 2).min(Semaphore::MAX_PERMITS)));
        Ok(ServedListener { listener, tls, handshakes: JoinSet::new(), places })
    }

    /// URL of the interface.
    ///
    /// # Errors
    /// When the operating system does not tell the address.
    pub fn url(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }
}

impl Listener for ServedListener {
    type Io = ServedConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ServedConnection, SocketAddr) {
        loop {
            let (listener, places) = (&mut self.listener, Arc::clone(&self.places));
            let accepted = async {
                let place = places.acquire_owned().await.expect("it is never closed");
                (Listener::accept(listener).await, place)
            };
            tokio::select! {
                ((stream, address), place) = accepted, if self.handshakes.len() < MOST_HANDSHAKES => {
                    // Outcomes are not to wait for more bytes.
                    let _ = stream.set_nodelay(true);
                    let Some(tls) = self.tls.clone() else {
                        return (ServedConnection::new(ServedStream::Plain(stream), place), address);
                    };
                    self.handshakes.spawn(async move {
                        let stream = timeout(HANDSHAKE, tls.accept(stream)).await.ok()?.ok()?;
                        Some((ServedConnection::new(ServedStream::Tls(Box::new(stream)), place), address))
                    });
                }
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection of a client, which ends after a time without any byte.
pub struct ServedConnection {
    stream: ServedStream,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// The bytes of a connection.
enum ServedStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl ServedConnection {
    fn new(stream: ServedStream, place: OwnedSemaphorePermit) -> Self {
        ServedConnection { stream, idle: Box::pin(sleep(IDLE)), _place: place }
    }

    /// Passes on what came of reading or writing, unless nothing has come for too long.
    fn passed<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.idle.as_mut().reset(clock::now() + IDLE);
            return done;
        }
        self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ServedConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let read = match &mut own.stream {
            ServedStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            ServedStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        own.passed(cx, read)
    }
}

impl AsyncWrite for ServedConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        let written = match &mut own.stream {
            ServedStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ServedStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        own.passed(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ServedStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ServedStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            ServedStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ServedStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
