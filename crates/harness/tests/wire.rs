//! The registry client, the doorway and a stand-in registry together, over real sockets and TLS.

use std::{sync::Arc, time::Duration};

use harness::{
    doorway::{Doorway, Loopback},
    event::What,
    evidence::Evidence,
    oci::{Account, Credentials, Image, MediaTypes, Reference, Registry, RegistryOptions},
    standin::StandIn,
    trust::Authority,
};
use http::StatusCode;
use kube::{Client, Config};

struct Stage {
    doorway: Doorway,
    stand_in: StandIn,
    authority: Authority,
    image: Image,
    evidence: Evidence,
}

/// A doorway of a cluster that does not answer, and a stand-in for name.io with one image.
async fn stage() -> Stage {
    // Two tests in one process install it twice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Authority::new("test").expect("an authority");
    let stand_in = StandIn::start(&authority, &["name.io".to_owned()]).await.expect("a stand-in");
    let image = Image::small("wire", MediaTypes::Oci);
    stand_in.shelve("name.io", "image", Some("latest"), &image);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nowhere = Config::new("http://127.0.0.1:1".parse().expect("a uri"));
    let client = Client::try_from(nowhere).expect("a client");
    let doorway = Doorway::open(listener, client, Arc::new(Loopback), None).await.expect("a doorway");
    doorway.place("name.io:443", stand_in.address());
    let evidence = Evidence::in_memory();
    doorway.record_in(evidence.clone());
    Stage { doorway, stand_in, authority, image, evidence }
}

impl Stage {
    fn registry(&self, host: &str, trust: &Authority) -> Registry {
        let account = Account { user: "somebody".to_owned(), password: "secret".to_owned() };
        let options = RegistryOptions {
            registry: host.to_owned(),
            proxy: self.doorway.url(),
            trust: trust.pem().as_bytes().to_vec(),
            insecure: false,
            credentials: Credentials::Account(account),
            evidence: Some(self.evidence.clone()),
        };
        Registry::new(options).expect("a client")
    }

    fn reference(&self, text: &str) -> Reference {
        text.parse().expect("a reference")
    }
}

#[tokio::test]
async fn pulls_a_whole_image_by_its_documented_name() {
    let stage = stage().await;
    let registry = stage.registry("name.io", &stage.authority);
    let pulled = registry.pull(&stage.reference("name.io/image")).await.expect("answers").expect("all of it");
    assert_eq!((pulled.digest.as_str(), pulled.blobs), (stage.image.digest(), 2));
    let events = stage.evidence.events().expect("a record");
    let exchanges = events.iter().filter_map(|event| match &event.what {
        What::HttpExchange(exchange) => Some((exchange.method.as_str(), exchange.status)),
        _ => None,
    });
    assert_eq!(exchanges.collect::<Vec<_>>(), [("GET", Some(200)); 3]);
    assert_eq!(stage.stand_in.visits("name.io").len(), 3);
}

#[tokio::test]
async fn a_missing_tag_and_a_closed_host_are_answers() {
    let stage = stage().await;
    let registry = stage.registry("name.io", &stage.authority);
    let missing = registry.pull(&stage.reference("name.io/image:other")).await.expect("answers").expect_err("refused");
    assert_eq!((missing.status, missing.error_code().as_deref()), (StatusCode::NOT_FOUND, Some("MANIFEST_UNKNOWN")));
    stage.stand_in.close("name.io");
    let closed = registry.pull(&stage.reference("name.io/image")).await.expect("answers").expect_err("refused");
    assert_eq!(closed.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_foreign_authority_is_not_trusted() {
    let stage = stage().await;
    let stranger = Authority::new("stranger").expect("an authority");
    let failure = stage.registry("name.io", &stranger).login().await.expect_err("no trust");
    assert!(failure.seen.expect("a cause").contains("UnknownIssuer"));
}

#[tokio::test]
async fn an_unknown_name_is_refused_and_recorded() {
    let stage = stage().await;
    let registry = stage.registry("registry.example.com", &stage.authority);
    let failure =
        tokio::time::timeout(Duration::from_secs(10), registry.login()).await.expect("at once").expect_err("refused");
    assert!(failure.seen.is_some());
    let events = stage.evidence.events().expect("a record");
    let refused = events.iter().find_map(|event| match &event.what {
        What::DoorwayRefused { asked, reason } => Some((asked.as_str(), reason.as_str())),
        _ => None,
    });
    let (asked, reason) = refused.expect("an event");
    assert_eq!(asked, "registry.example.com:443");
    assert!(reason.contains("no stand-in has that name"), "{reason}");
}

#[tokio::test]
async fn an_address_outside_the_machine_is_never_dialled() {
    let stage = stage().await;
    for asked in ["192.0.2.1:443", "registry.invalid:443", "image-registry.openshift-image-registry.svc:5000"] {
        let Err(why) = stage.doorway.connect(asked).await else { panic!("{asked} was let through") };
        assert!(!why.is_empty());
    }
}
