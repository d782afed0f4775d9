//! Credentials of an API server's users, in the files that the server and its clients read.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// The administrator, a member of `system:masters`.
pub(crate) const ADMIN: &str = "admin";

/// The static token of a user.
pub(crate) fn token(user: &str) -> String {
    format!("token-of-{user}")
}

/// The content of the API server's file of static tokens, with lines TOKEN,USER,ID,"GROUPS": the
/// administrator, and these users with their groups.
pub(crate) fn users(users: &[(String, String)]) -> String {
    let mut text = format!("{},{ADMIN},0,\"system:masters\"\n", token(ADMIN));
    for (number, (name, groups)) in users.iter().enumerate() {
        let id = number + 1;
        writeln!(text, "{},{name},{id},\"{groups}\"", token(name))
            .expect("a String can be written to");
    }
    text
}

/// The content of a kubeconfig. `credentials` are fields of its user.
pub(crate) fn text(server: SocketAddr, authority: &Path, credentials: &str) -> String {
    let authority = authority.display();
    let cluster = format!("{{ server: \"https://{server}\", certificate-authority: {authority} }}");
    format!(
        "\
apiVersion: v1
kind: Config
clusters: [{{ name: test, cluster: {cluster} }}]
users: [{{ name: user, user: {{ {credentials} }} }}]
contexts: [{{ name: test, context: {{ cluster: test, user: user }} }}]
current-context: test
"
    )
}
