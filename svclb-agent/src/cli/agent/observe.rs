//! The flags of `svclb agent` for what it shows of itself over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;

use crate::cli::ready::readiness;
use crate::observe::Observed;
use crate::observe::health::HealthPages;
use crate::observe::metrics::MetricsPages;
use crate::observe::serve;
use svclb_dataplane::pins::Pins;

#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    /// Serve /metrics, in the OpenMetrics format, at this address and port
    #[arg(long, value_name = "ADDRESS:PORT|none", default_value = "127.0.0.1:19249", value_parser = listening)]
    metrics_address: Listening,
    /// Serve /livez, /readyz and /healthz at this address and port
    #[arg(long, value_name = "ADDRESS:PORT|none", default_value = "127.0.0.1:19256", value_parser = listening)]
    health_address: Listening,
}

/// The address to listen at; none with `none`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Listening(Option<SocketAddr>);

fn listening(text: &str) -> Result<Listening, String> {
    if text == "none" {
        return Ok(Listening(None));
    }
    let address = text.parse().map_err(|_| "expected an address with a port, or none".to_owned());
    address.map(|address| Listening(Some(address)))
}

impl ObserveArgs {
    /// Starts the servers. One that cannot be started is logged: Services are served without it.
    pub(super) fn start(&self, pins: &Pins, observed: &Arc<Observed>) {
        if let Listening(Some(address)) = self.metrics_address {
            start("metrics", address, MetricsPages::new(Arc::clone(observed), pins.clone()));
        }
        if let Listening(Some(address)) = self.health_address {
            let (pins, observed) = (pins.clone(), Arc::clone(observed));
            let readiness = Box::new(move || readiness(&pins));
            start("health", address, HealthPages { observed, readiness });
        }
    }
}

fn start(name: &'static str, address: SocketAddr, pages: impl serve::Pages) {
    if let Err(error) = serve::start(name, address, pages) {
        tracing::error!("{error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_or_is_none() {
        let rows = [
            ("none", Some(None)),
            ("127.0.0.1:19256", Some(Some(([127, 0, 0, 1], 19_256).into()))),
            ("[::1]:80", Some(Some((std::net::Ipv6Addr::LOCALHOST, 80).into()))),
            ("127.0.0.1", None),
            (":19256", None),
            ("localhost:19256", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(listening(text).ok(), expected.map(Listening), "{text}");
        }
    }
}
