//! Retained state: what a previous agent wrote of a service of which the source cannot read a part
//! (docs/decisions/0019).

use svclb_common::layout::{Address, BackendRow, FrontendKey};

use crate::frontends::FrontendKind;
use crate::model::{Service, ServiceKey};

/// The state of one service that a previous agent wrote.
#[derive(Clone, PartialEq, Debug)]
pub struct Retained {
    /// The service.
    pub key: ServiceKey,
    /// Its policies, affinity and notes, with its one port, whose number is not known.
    pub service: Service,
    /// Its frontends, while the Service object cannot be read.
    pub frontends: Vec<(FrontendKey, FrontendKind)>,
    /// Its members, while they are the last that is known of its backends.
    pub members: Vec<(Address, u16, BackendRow)>,
}
