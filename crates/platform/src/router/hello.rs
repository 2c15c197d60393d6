//! Reads the server name from the beginning of a TLS connection without taking anything away from it.
//! What was read is replayed to whoever handles the connection: the router's own TLS, or the pod.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a client may take to say hello.
const DEADLINE: Duration = Duration::from_secs(10);
/// A hello is one or a few records; more than this is no hello.
const LIMIT: usize = 64 * 1024;

/// The connection as it was before anything was read, and the name it asks for (blank if it names none).
///
/// # Errors
/// If what comes is no TLS, too long, too slow, or ends early.
pub(super) async fn read(mut stream: TcpStream) -> io::Result<(Replayed, String)> {
    let mut acceptor = Acceptor::default();
    let mut seen = Vec::with_capacity(2048);
    let name = tokio::time::timeout(DEADLINE, async {
        loop {
            let before = seen.len();
            if before > LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the hello is too long"));
            }
            if stream.read_buf(&mut seen).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut fresh = Cursor::new(&seen[before..]);
            while (fresh.position() as usize) < seen.len() - before {
                acceptor.read_tls(&mut fresh)?;
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Ok(name.unwrap_or_default());
                }
                Ok(None) => {}
                Err((error, _)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    })
    .await
    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no hello came"))??;
    Ok((Replayed { seen: Cursor::new(seen), stream }, name))
}

/// A connection that gives again what was already read from it.
pub(super) struct Replayed {
    seen: Cursor<Vec<u8>>,
    stream: TcpStream,
}

impl AsyncRead for Replayed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.seen.get_ref()[self.seen.position() as usize..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let count = rest.len().min(into.remaining());
        into.put_slice(&rest[..count]);
        let position = self.seen.position() + count as u64;
        self.seen.set_position(position);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
