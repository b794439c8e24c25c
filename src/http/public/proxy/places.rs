//! The places at the primary for requests that only it can answer, and how to send them to each upstream.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;

use crate::delivery::headers::Headers;
use crate::delivery::settings::Settings;
use crate::delivery::transport::Connections;
use crate::http::listener::files::Files;
use crate::http::public::error::ApiError;
use crate::http::public::shares::Shares;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Refused;

use super::stream::Upload;

/// How to send requests to an upstream.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub(super) connections: Connections<Upload>,
    /// The upstream's `timeout`.
    pub(super) patience: Duration,
    /// The upstream's `headers`.
    pub(super) own: Headers,
}

/// The proxy of requests that only the primary can answer. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub(in crate::http::public) struct Proxy {
    places: Arc<Mutex<Shares<IpAddr>>>,
    /// The number of all places.
    most: u64,
    /// How to send to each upstream, by its name.
    manners: Arc<ArcSwap<BTreeMap<Arc<str>, Manner>>>,
    pub(super) tasks: Tasks,
}

impl Proxy {
    pub(in crate::http::public) fn new(tasks: Tasks) -> Self {
        let most = Files::allowed().proxied() as u64;
        Self { places: Arc::new(Mutex::new(Shares::new(most, 1))), most, manners: Arc::default(), tasks }
    }

    /// Sets how to send to each upstream. No connection is kept: if the server closes it meanwhile, as GlitchTip's does after each
    /// answer, a request would fail whose body cannot be sent twice.
    pub(in crate::http::public) fn configure(&self, upstreams: &BTreeMap<Arc<str>, Settings>) {
        let manner = |settings: &Settings| Manner {
            connections: Connections::new(settings, 0),
            patience: settings.timeout.get(),
            own: settings.headers.clone(),
        };
        let manners = upstreams.iter().map(|(name, settings)| (Arc::clone(name), manner(settings)));
        self.manners.store(Arc::new(manners.collect()));
    }

    pub(super) fn manner(&self, upstream: &str) -> Result<Manner, ApiError> {
        self.manners.load().get(upstream).cloned().ok_or_else(|| failed("there is no way to the primary"))
    }

    pub(super) fn place(&self, client: IpAddr) -> Result<Place, ApiError> {
        let (taken, free) = {
            let mut places = lock(&self.places);
            (places.take(Some(&client), 1, 0), places.free())
        };
        if taken {
            return Ok(Place { places: Arc::clone(&self.places), client });
        }
        let whose = if free == 0 { "" } else { " of this address" };
        let detail = format!("{} requests{whose} wait for the primary already, try again later", self.most - free);
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, Refused::Overloaded, detail))
    }
}

/// A place among the requests at the primary, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Mutex<Shares<IpAddr>>>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places).give_back(Some(&self.client), 1);
    }
}

/// Nobody panics while holding the lock.
fn lock(places: &Mutex<Shares<IpAddr>>) -> MutexGuard<'_, Shares<IpAddr>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The refusal when the primary fails: 502.
pub(super) fn failed(detail: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, Refused::UpstreamFailed, detail)
}
