//! What only maps know that cannot be used: services of an earlier agent of which the source cannot read
//! a part (docs/decisions/0014).

use svclb_common::layout::ServiceRow;
use svclb_core::catalog::Catalog;
use svclb_core::compile::service_of;
use svclb_core::model::{ServiceKey, Withheld};
use svclb_core::plan::is_withheld;

use super::told::names;

/// Tells which of these services would have been kept, had their maps been of use.
pub(super) fn tell(ids: &[(u32, ServiceRow)], catalog: &Catalog, withheld: &Withheld) {
    if *withheld == Withheld::default() {
        return;
    }
    let is_lost = |service: &ServiceKey| {
        let wanted = catalog.desired(&service.object).into_iter().find(|it| it.key == *service);
        is_withheld(withheld, service, wanted.as_ref(), catalog.knows(&service.object))
    };
    let services = ids.iter().filter_map(|(_, row)| service_of(row));
    let lost: Vec<ServiceKey> = services.filter(is_lost).collect();
    if !lost.is_empty() {
        tracing::warn!(
            services = names(lost.iter()),
            "what an earlier agent wrote of these cannot be taken over, and what was rejected is, or may \
             be, a part of them: they are not served until that is corrected"
        );
    }
}
