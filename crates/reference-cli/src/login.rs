//! `oc login`: proves who one is to a server and remembers it in the client configuration.

use crate::command_line::{Arguments, Command, value};
use crate::failure::{Failure, chain};
use crate::kubeconfig::{Kubeconfig, server_nickname};
use crate::session::{Session, address};
use crate::{print, project, trust};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::FutureExt;
use http::Uri;
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};

pub const COMMAND: Command = Command {
    path: "login",
    usage: "[SERVER] [-u USER -p PASSWORD | --token TOKEN]",
    about: "Log in to a server",
    flags: &[value("username", Some('u'), "user name"), value("password", Some('p'), "password")],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let mut config = Kubeconfig::read(&session.kubeconfig_path())?;
    let server = match args.words.as_slice() {
        [server] => address(server)?,
        [] => match args.text("server") {
            Some(server) => address(server)?,
            None => current_server(&config)?,
        },
        _ => return Err(Failure::usage("Only the server URL may be specified as an argument")),
    };
    let base = server.to_string();
    let base = base.trim_end_matches('/');
    let before =
        config.clusters().any(|cluster| cluster["server"] == base && cluster["insecure-skip-tls-verify"] == true);
    let insecure =
        args.is_on("insecure-skip-tls-verify") || (before && args.text("insecure-skip-tls-verify").is_none());
    let authorities = authorities(&config, args)?;
    let http = client(&authorities, insecure)?;

    let token = match (args.text("token"), args.text("username"), args.text("password")) {
        (Some(token), ..) => token.to_owned(),
        (None, Some(user), Some(password)) => exchange(&http, base, user, password).await?,
        _ => {
            return Err(Failure::usage(
                "You must provide a user name and a password (-u and -p) or a token (--token).",
            ));
        }
    };
    let name = who(&http, base, &token).await?;
    if let Some(user) = args
        .text("username")
        .filter(|user| *user != name && format!("kube:{}", user.trim_start_matches("kube")) != name)
    {
        tracing::debug!(user, name, "the token belongs to another user");
        return Err(refused());
    }
    remember(&mut config, session, &server, &name, &token, &authorities, insecure)?;
    let namespace = current_namespace(&config);
    print(&format!("Login successful.\n\nUsing project {namespace:?}.\n"));
    Ok(())
}

fn refused() -> Failure {
    Failure::Unreachable("Login failed (401 Unauthorized)\nVerify you have provided the correct credentials.".into())
}

fn current_server(config: &Kubeconfig) -> Result<Uri, Failure> {
    let context = config.current_context().and_then(|name| config.entry("contexts", &name));
    let cluster = context.and_then(|context| config.entry("clusters", context["cluster"].as_str()?));
    match cluster.and_then(|cluster| cluster["server"].as_str()) {
        Some(server) => address(server),
        None => Err(Failure::usage("no server is known; name one: oc login -u USER -p PASSWORD https://HOST:6443")),
    }
}

fn current_namespace(config: &Kubeconfig) -> String {
    let context = config.current_context().and_then(|name| config.entry("contexts", &name));
    context.and_then(|context| context["namespace"].as_str()).unwrap_or("default").to_owned()
}

/// The authorities to trust: those named, those known from clusters logged in to before, and those of the environment.
fn authorities(config: &Kubeconfig, args: &Arguments) -> Result<Vec<Vec<u8>>, Failure> {
    let mut authorities = Vec::new();
    if let Some(path) = args.text("certificate-authority") {
        return trust::read(path.as_ref());
    }
    for cluster in config.clusters() {
        if let Some(data) = cluster["certificate-authority-data"].as_str().and_then(|data| STANDARD.decode(data).ok()) {
            authorities.extend(trust::parse(&data));
        }
        if let Some(text) = cluster["certificate-authority"].as_str().and_then(|path| std::fs::read(path).ok()) {
            authorities.extend(trust::parse(&text));
        }
    }
    if let Some(path) = trust::environment_file() {
        authorities.extend(trust::read(&path)?);
    }
    Ok(authorities)
}

fn client(authorities: &[Vec<u8>], insecure: bool) -> Result<Client, Failure> {
    let certificates: Vec<Certificate> = authorities.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
    Client::builder()
        .tls_certs_merge(certificates)
        .tls_danger_accept_invalid_certs(insecure)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| Failure::usage(format!("could not make a client: {}", chain(&error))))
}

fn unreachable(error: reqwest::Error) -> Failure {
    let words = chain(&error);
    if words.contains("UnknownIssuer") {
        return Failure::usage(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority; give the authority by \
             --certificate-authority",
        );
    }
    Failure::Unreachable(format!("Unable to connect to the server: {words}"))
}

/// A token for a user name and password.
///
/// Asked of the platform's OAuth server where there is one. Platforms without have users whose password is their
/// token, so there the password itself is tried.
async fn exchange(http: &Client, base: &str, user: &str, password: &str) -> Result<String, Failure> {
    let metadata =
        http.get(format!("{base}/.well-known/oauth-authorization-server")).send().await.map_err(unreachable)?;
    if metadata.status() != StatusCode::OK {
        return Ok(password.to_owned());
    }
    let metadata: Value = metadata.json().await.map_err(unreachable)?;
    let Some(endpoint) = metadata["authorization_endpoint"].as_str() else { return Ok(password.to_owned()) };
    let answer = http
        .get(format!("{endpoint}?response_type=token&client_id=openshift-challenging-client"))
        .basic_auth(user, Some(password))
        .header("X-CSRF-Token", "1")
        .send()
        .await
        .map_err(unreachable)?;
    let fragment =
        answer.headers().get("location").and_then(|place| place.to_str().ok()).and_then(|place| place.split_once('#'));
    let token = fragment
        .into_iter()
        .flat_map(|(_, parts)| parts.split('&'))
        .find_map(|part| part.strip_prefix("access_token="));
    token.map(str::to_owned).ok_or_else(refused)
}

/// The user the server sees behind a token.
async fn who(http: &Client, base: &str, token: &str) -> Result<String, Failure> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = http
        .post(format!("{base}/apis/authentication.k8s.io/v1/selfsubjectreviews"))
        .bearer_auth(token)
        .json(&review)
        .send()
        .await
        .map_err(unreachable)?;
    match answer.status() {
        status if status.is_success() => {
            let review: Value = answer.json().await.map_err(unreachable)?;
            Ok(review["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned())
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused()),
        status => Err(Failure::Unreachable(format!(
            "Login failed ({status}): the server could not say whom the token belongs to; check that {base} is the API server"
        ))),
    }
}

fn remember(
    config: &mut Kubeconfig,
    session: &Session,
    server: &Uri,
    name: &str,
    token: &str,
    authorities: &[Vec<u8>],
    insecure: bool,
) -> Result<(), Failure> {
    let nickname = server_nickname(server);
    let mut cluster = json!({"server": server.to_string().trim_end_matches('/')});
    if insecure {
        cluster["insecure-skip-tls-verify"] = true.into();
    } else if !authorities.is_empty() {
        let pem: String = authorities.iter().map(|der| pem(der)).collect();
        cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
    }
    let user = format!("{name}/{nickname}");
    let before = config.current_context().and_then(|context| config.entry("contexts", &context));
    let same_cluster = before.filter(|context| context["cluster"] == nickname.as_str());
    let namespace = session
        .asked_namespace()
        .or(same_cluster.and_then(|context| context["namespace"].as_str()))
        .unwrap_or("default")
        .to_owned();
    let context = project::context_name(&namespace, server, name);
    config.set("clusters", &nickname, cluster);
    config.set("users", &user, json!({"token": token}));
    config.set("contexts", &context, json!({"cluster": nickname, "namespace": namespace, "user": user}));
    config.use_context(&context);
    config.write()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
