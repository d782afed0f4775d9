//! The keys of a control plane: a certificate authority, the API server's certificate, client
//! certificates, and the key pair that signs tokens of service accounts.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// The names under which the API server is reached: from its own namespace, by pods, and from other
/// namespaces.
const NAMES: [&str; 7] = [
    "127.0.0.1",
    "::1",
    "localhost",
    "10.96.0.1",
    "fd00:96::1",
    super::control_plane::ADVERTISED,
    "kubernetes.default.svc",
];

/// A certificate authority, and the folder with what it signed.
#[derive(Debug)]
pub(crate) struct Certificates {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    /// Creates the authority, the API server's certificate and the key pair for tokens.
    pub(crate) fn make(folder: &Path) -> Self {
        let mut own = CertificateParams::default();
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        own.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        own.distinguished_name.push(DnType::CommonName, "svclb-test");
        let authority = CertifiedIssuer::self_signed(own, key()).expect("a certificate is made");
        fs::write(folder.join("ca.crt"), authority.pem()).expect("a file can be written");
        let certificates = Self { folder: folder.to_owned(), authority };
        let server = CertificateParams::new(NAMES.map(str::to_owned)).expect("the names are names");
        certificates.sign("server", server, ExtendedKeyUsagePurpose::ServerAuth);
        let tokens = key();
        certificates.write("tokens.key", &tokens.serialize_pem());
        certificates.write("tokens.pub", &tokens.public_key_pem());
        certificates
    }

    /// The path of the authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// The path of a file of the folder: `server.crt`, `server.key`, `tokens.pub`, `tokens.key`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Creates the certificate of a client and returns the paths of the certificate and its key. The API
    /// server takes the common name as the user and each organization as a group.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> (PathBuf, PathBuf) {
        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            client.distinguished_name.push(DnType::OrganizationName, *group);
        }
        let file = format!("client-{}", user.replace(['/', ':'], "-"));
        self.sign(&file, client, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        file: &str,
        mut what: CertificateParams,
        purpose: ExtendedKeyUsagePurpose,
    ) -> (PathBuf, PathBuf) {
        what.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        what.extended_key_usages = vec![purpose];
        let key = key();
        let signed = what.signed_by(&key, &self.authority).expect("a certificate is made");
        (
            self.write(&format!("{file}.crt"), &signed.pem()),
            self.write(&format!("{file}.key"), &key.serialize_pem()),
        )
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key is made")
}
