//! Which images an engine is asked for when a storage product is started as a container: those that its backend file
//! names, with the digest, and no other. The engine is a listener that answers as one without much to offer.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use harness::datafile::DataFile;
use local_cluster::Tools;
use storage_backends::{Backend, Error, Run, ServerCertificate, StorageContainer, StorageOptions};

/// What the engine has, and what it was asked for: images to pull and images to make containers from.
#[derive(Default)]
struct Seen {
    has: BTreeSet<String>,
    pulled: Vec<String>,
    made: Vec<String>,
}

/// Answers one request and says so; everything that would go further is refused.
fn answer(stream: TcpStream, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, text) = reply(&path, &body, &mut seen.lock().unwrap());
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}", text.len());
    write!(&stream, "{head}\r\nConnection: close\r\n\r\n{text}")
}

fn reply(path: &str, body: &[u8], seen: &mut Seen) -> (&'static str, String) {
    let refused = |what: &str| ("404 Not Found", format!("{{\"message\": \"No such image: {what}\"}}"));
    let (place, query) = path.split_once('?').unwrap_or((path, ""));
    let decoded = |text: &str| text.replace("%2F", "/").replace("%3A", ":").replace("%40", "@");
    if let Some((_, name)) = place.split_once("/images/")
        && let Some(name) = name.strip_suffix("/json")
    {
        let name = decoded(name);
        return if seen.has.contains(&name) { ("200 OK", "{\"Id\": \"sha256:1\"}".to_owned()) } else { refused(&name) };
    }
    if place.ends_with("/images/create") {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("fromImage=")).map(decoded).unwrap_or_default();
        seen.pulled.push(from.clone());
        return refused(&from);
    }
    if place.ends_with("/containers/create") {
        let asked = String::from_utf8_lossy(body).into_owned();
        let image = asked.split("\"Image\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        seen.made.push(image.to_owned());
        // A container of an image that is there is refused for another reason, so that nothing has to run.
        return if seen.has.contains(image) {
            ("500 Internal Server Error", "{\"message\": \"no containers today\"}".to_owned())
        } else {
            refused(image)
        };
    }
    ("200 OK", "{}".to_owned())
}

fn containers() -> Vec<Backend> {
    let folder = std::fs::read_dir(format!("{}/../../backends", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let backends = files.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        Backend::read(&DataFile::new(path, text)).unwrap()
    });
    backends.filter(|backend| matches!(backend.run(), Run::Container(_))).collect()
}

/// One test, because the engine's address is a variable of the whole process.
#[test]
#[expect(unsafe_code, reason = "a variable of this process is set before it has a second thread that reads any")]
fn an_engine_is_asked_for_the_images_of_the_backend_file_only() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    // SAFETY: this binary has this one test, and nothing was started yet.
    unsafe { std::env::set_var("DOCKER_HOST", address) };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let told = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &told);
        }
    });

    let folder = tempfile::tempdir().unwrap();
    let authority = local_cluster::pki::Authority::create(folder.path(), "ca", "storage test").unwrap();
    let server = authority.issue_server("server", &["127.0.0.1".to_owned()]).unwrap();
    let certificate =
        ServerCertificate { certificate: server.certificate, key: server.key, authority: authority.pem().to_owned() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = |backend: &Backend, pull: bool, has: &[&str]| {
        *seen.lock().unwrap() = Seen { has: has.iter().map(|name| (*name).to_owned()).collect(), ..Seen::default() };
        let Run::Container(run) = backend.run() else { unreachable!("only containers are asked about") };
        let mut options = StorageOptions::new(vec![], Tools::default(), folder.path(), certificate.clone());
        options.pull = pull;
        let started = StorageContainer::start(backend, run, &options, folder.path());
        let error = runtime.block_on(started).expect_err("the engine starts nothing");
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        (error, seen.pulled, seen.made)
    };
    let containers = containers();
    assert_eq!(containers.len(), 3, "one of each kind");
    for backend in &containers {
        let listed = backend.images();
        let [archive, published] = listed[..] else { panic!("an archive and what is published: {listed:?}") };
        let Run::Container(run) = backend.run() else { unreachable!() };

        let (_, pulled, made) = start(backend, true, &[archive, published]);
        assert_eq!((pulled, made), (vec![], vec![archive.to_owned()]), "an archive that is there goes first");

        let (_, pulled, made) = start(backend, true, &[published]);
        assert_eq!((pulled, made), (vec![], vec![published.to_owned()]), "what is there is not pulled");

        let (error, pulled, made) = start(backend, false, &[]);
        assert!(matches!(error, Error::NoImage { .. }), "{error}");
        assert_eq!((pulled.len(), made.len()), (0, 0), "beside archives nothing is pulled");

        let (error, pulled, made) = start(backend, true, &[]);
        assert!(pulled.iter().chain(&made).all(|image| image == published), "{pulled:?} {made:?}");
        assert_eq!(pulled.is_empty(), !run.published, "{}: {error}", backend.name);
    }
}
