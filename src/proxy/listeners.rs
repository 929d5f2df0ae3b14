//! All listeners of the proxy, plain ones and those that speak TLS.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ServeError;
use super::accept::{self, Listener};
use crate::admin::{self, AdminContext};
use crate::config::Config;
use crate::http::{self, Endpoints, HttpLimits, Readiness};
use crate::tls::{Listening, Secure};
use crate::topology::Address;
use crate::worker::Worker;
use crate::worker::shared::Shared;

/// What listeners are opened with.
pub(super) struct Listeners<'a> {
    pub(super) config: &'a Config,
    pub(super) shared: &'a Arc<Shared>,
    /// Handshakes of those that speak TLS; the config has none of them without it.
    pub(super) secure: Option<Secure>,
    /// Ends them.
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) tasks: &'a mut JoinSet<()>,
    /// Gets a line for each.
    pub(super) announce: &'a mut (dyn FnMut(&str) + Send),
}

impl Listeners<'_> {
    /// Opens the data ports.
    pub(super) fn data(&mut self, workers: &[Worker]) -> Result<(), ServeError> {
        let clients = Arc::new(AtomicUsize::new(0));
        let proxy = &self.config.proxy;
        let plain = proxy.listen.iter().map(|address| (address, "data", None));
        let secured = proxy.listen_tls.iter();
        let secured = secured.map(|address| (address, "data_tls", self.secure.clone()));
        for (address, name, secure) in plain.chain(secured) {
            let listener = Listener::bind(address)?;
            (self.announce)(&format!("listening {name}={}", listener.address()));
            // The first TCP address is the one that clients and other proxies are told.
            if let Ok(mut shown) = self.shared.data_address.write()
                && (shown.is_empty() || shown.starts_with("unix:"))
            {
                *shown = listener.address();
            }
            let door = accept::Door::new(self.shared, workers, &clients);
            let stop = until(self.stopped.clone());
            self.tasks.spawn(accept::accept(listener, secure, door, stop));
        }
        Ok(())
    }

    /// Opens the admin ports.
    pub(super) async fn admin(&mut self, context: &Arc<AdminContext>) -> Result<(), ServeError> {
        let admin = &self.config.admin;
        for listening in [
            self.listen(admin.listen.as_ref(), "admin", None).await?,
            self.listen(admin.listen_tls.as_ref(), "admin_tls", self.secure.clone())
                .await?,
        ]
        .into_iter()
        .flatten()
        {
            // Only the first one is told: the plain one, if there is one.
            if let Ok(bound) = listening.listener.local_addr() {
                context.fleet.set_admin_address(bound.to_string());
            }
            let stop = until(self.stopped.clone());
            self.tasks
                .spawn(admin::serve(listening, Arc::clone(context), stop));
        }
        Ok(())
    }

    /// Opens the HTTP ports.
    pub(super) async fn http(&mut self, readiness: &Readiness) -> Result<(), ServeError> {
        let admin = &self.config.admin;
        for listening in [
            self.listen(admin.http.as_ref(), "http", None).await?,
            self.listen(admin.http_tls.as_ref(), "https", self.secure.clone())
                .await?,
        ]
        .into_iter()
        .flatten()
        {
            let endpoints = endpoints(self.shared, readiness.clone());
            let stop = until(self.stopped.clone());
            self.tasks
                .spawn(http::serve(listening, endpoints, HttpLimits::default(), stop));
        }
        Ok(())
    }

    /// Binds an address, if there is one, and says so.
    async fn listen(
        &mut self,
        address: Option<&Address>,
        name: &str,
        secure: Option<Secure>,
    ) -> Result<Option<Listening>, ServeError> {
        let Some(address) = address else { return Ok(None) };
        let (listener, bound) = bind_tcp(address).await?;
        (self.announce)(&format!("listening {name}={bound}"));
        Ok(Some(Listening { listener, secure }))
    }
}

fn endpoints(shared: &Arc<Shared>, readiness: Readiness) -> Endpoints {
    let (for_metrics, for_topology) = (Arc::clone(shared), Arc::clone(shared));
    Endpoints {
        metrics: Arc::new(move || for_metrics.metrics.gather_text()),
        topology: Some(Arc::new(move || for_topology.topology.load().encode())),
        readiness,
    }
}

/// Binds a TCP address; port 0 takes a free one.
async fn bind_tcp(address: &Address) -> Result<(TcpListener, String), ServeError> {
    let listen = |error| ServeError::Listen {
        address: address.to_string(),
        error,
    };
    let Address::Tcp { host, port } = address else {
        return Err(listen(io::Error::new(
            io::ErrorKind::Unsupported,
            "this listener needs a host and a port",
        )));
    };
    let listener = TcpListener::bind((host.as_str(), *port)).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound.to_string()))
}

/// Ready when the proxy is told to stop.
async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}
