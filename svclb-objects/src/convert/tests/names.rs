//! Names of Services as API servers accept them since Kubernetes 1.37, where
//! `RelaxedServiceNameValidation` is locked on: any DNS label (RFC 1123), so the first character may be a
//! digit (pkg/apis/core/validation `ValidateServiceCreate`, `NameIsDNSLabel`).

use serde_json::json;
use svclb_core::model::{ObjectName, Update};

use super::super::{Converted, objects};
use super::{one, service_object, slice_object, with};

#[test]
fn a_service_name_may_begin_with_a_digit_and_may_be_a_number() {
    let longest = "9".repeat(63);
    let names =
        ["1", "8080", "1-web", "10-96-0-1", "012", "0x1f", "0b1", "0o7", "1e3", "1e-3", &longest];
    for name in names {
        let changes = [("/metadata/name", json!(name))];
        let (Update::Service(found, Some(_)), _) = one(with(service_object(), &changes)) else {
            panic!("{name}: no Service")
        };
        assert_eq!(found, ObjectName::new("shop", name));
        // Names of slices begin with that of their Service.
        let changes = [
            ("/metadata/name", json!(format!("{name}-abcde"))),
            ("/metadata/labels/kubernetes.io~service-name", json!(name)),
        ];
        let (Update::Slice(_, Some(slice)), _) = one(with(slice_object(), &changes)) else {
            panic!("{name}: no EndpointSlice")
        };
        assert_eq!(slice.service, ObjectName::new("default", name));
    }
}

#[test]
fn a_service_name_that_no_api_server_accepts_is_rejected() {
    let too_long = "9".repeat(64);
    for name in ["", "-1", "1-", "1.2", "1_2", "1/2", "1A", "１", &too_long] {
        let Converted { accepted, rejects, .. } =
            objects(with(service_object(), &[("/metadata/name", json!(name))]));
        assert_eq!(accepted, [], "{name:?}");
        assert_eq!(rejects.len(), 1, "{name:?}");
        assert_eq!(rejects[0].field, "metadata.name", "{name:?}");
    }
}
