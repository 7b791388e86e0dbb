//! Connections that stay open for a moment after the last word.
//!
//! An API server puts all its questions on one connection. When the webhook ends it says so there (GOAWAY), and then has nothing more to say;
//! but a question that was on its way to that connection would find it closed, and be lost, where one that finds it open is asked again
//! elsewhere.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum_server::accept::Accept;
use config::shutdown::Shutdown;
use futures::future::{BoxFuture, FutureExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// So long: a question is on its way for less.
const MOMENT: Duration = Duration::from_secs(1);

/// Accepts as another one does, and gives the connections their moment.
#[derive(Clone)]
pub struct Lingering<A> {
    inner: A,
    shutdown: Shutdown,
}

impl<A> Lingering<A> {
    /// The moment is given while the process ends.
    pub fn new(inner: A, shutdown: Shutdown) -> Self {
        Self { inner, shutdown }
    }
}

impl<A, I, S> Accept<I, S> for Lingering<A>
where
    A: Accept<I, S, Future: Send + 'static>,
{
    type Stream = Lingers<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let (accepted, shutdown) = (self.inner.accept(stream, service), self.shutdown.clone());
        async move {
            let (stream, service) = accepted.await?;
            Ok((Lingers { stream, shutdown, moment: None }, service))
        }
        .boxed()
    }
}

/// One connection.
pub struct Lingers<S> {
    stream: S,
    shutdown: Shutdown,
    moment: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lingers<S> {
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shutdown.is_draining() {
            ready!(self.moment.get_or_insert_with(|| Box::pin(sleep(MOMENT))).as_mut().poll(cx));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingers<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use config::args::ShutdownArgs;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_end_of_the_process_takes_a_moment() {
        for (ends, moment) in [(false, Duration::ZERO), (true, MOMENT)] {
            let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: MOMENT };
            let shutdown = Shutdown::new(&args);
            if ends {
                shutdown.begin();
                let process = config::supervisor::Supervisor::new(shutdown.clone()).service("none", async {}).run();
                process.await.unwrap();
            }
            let (ours, mut theirs) = duplex(64);
            let mut stream = Lingers { stream: ours, shutdown, moment: None };
            stream.write_all(b"goodbye").await.unwrap();
            let start = Instant::now();
            let (closed, mut said) = (stream.shutdown(), Vec::new());
            let (closed, read) = tokio::join!(closed, theirs.read_to_end(&mut said));
            closed.unwrap();
            assert_eq!((read.unwrap(), said.as_slice()), (7, b"goodbye".as_slice()));
            assert_eq!(start.elapsed(), moment);
        }
    }
}
