//! Limits and quotas that OpenShift's admission puts on images and streams, worded so that the registry recognises
//! them: LimitRange types `openshift.io/Image` and `openshift.io/ImageStream`, quota `openshift.io/imagestreams`
//! (openshift-apiserver pkg/image/apiserver/admission/limitrange; library-go pkg/quota/quotautil/error.go).

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

use crate::history;
use crate::request::{Query, percent_encode};
use crate::status::StatusError;
use crate::store::{Place, Store, name_of};

const STREAM_QUOTA: &str = "openshift.io/imagestreams";

/// The limits of one namespace.
#[derive(Debug, Clone, Default)]
pub struct Limits(Vec<Value>);

impl Limits {
    /// Reads the LimitRanges of `namespace`.
    ///
    /// # Errors
    /// What the API server answers when it cannot list them.
    pub async fn read(store: &Store, namespace: &str) -> Result<Self, StatusError> {
        let ranges = list(store, namespace, "limitranges").await?;
        let limits =
            |range: Value| range.pointer("/spec/limits").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Self(ranges.into_iter().flat_map(limits).collect()))
    }

    /// The smallest maximum of `resource` among limits of type `kind`, with how it was written.
    fn maximum(&self, kind: &str, resource: &str) -> Option<(f64, &str)> {
        let of_kind = self.0.iter().filter(|limit| limit["type"] == kind);
        let written = of_kind.filter_map(|limit| limit["max"][resource].as_str());
        written.filter_map(|text| Some((quantity(text)?, text))).min_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn exceeded(&self, kind: &str, resource: &str, usage: f64) -> Option<String> {
        let (maximum, written) = self.maximum(kind, resource)?;
        (usage > maximum).then(|| {
            format!("requested usage of {resource} exceeds the maximum limit per {kind} ({usage} > {written})")
        })
    }

    /// Refuses an image that is larger than images may be here.
    ///
    /// # Errors
    /// 403 with "exceeds the maximum limit".
    pub fn check_image(&self, image: &Value) -> Result<(), StatusError> {
        let size = image.pointer("/dockerImageMetadata/Size").and_then(Value::as_f64).unwrap_or(0.0);
        match self.exceeded("openshift.io/Image", "storage", size) {
            Some(why) => Err(StatusError::forbidden("imagestreammappings", name_of(image), &why)),
            None => Ok(()),
        }
    }

    /// Refuses a write that leads to more images or tags in a stream than streams may have here. What was too
    /// much before may stay.
    ///
    /// # Errors
    /// 403 with "exceeds the maximum limit".
    pub fn check_stream(&self, old: Option<&Value>, stream: &Value) -> Result<(), StatusError> {
        let (images, tags) = usage(stream);
        let (images_before, tags_before) = old.map(usage).unwrap_or_default();
        for (resource, now, before) in
            [("openshift.io/images", images, images_before), ("openshift.io/image-tags", tags, tags_before)]
        {
            if now.is_subset(&before) {
                continue;
            }
            let count = f64::from(u32::try_from(now.len()).unwrap_or(u32::MAX));
            if let Some(why) = self.exceeded("openshift.io/ImageStream", resource, count) {
                return Err(StatusError::forbidden("imagestreams", name_of(stream), &why));
            }
        }
        Ok(())
    }
}

/// Distinct images in the history and distinct tags in the spec.
fn usage(stream: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let images = history::images(stream).into_iter().map(str::to_owned).collect();
    let tags = history::spec_tags(stream).iter().filter_map(|tag| tag["name"].as_str().map(str::to_owned)).collect();
    (images, tags)
}

/// Refuses one more stream where a quota allows no more.
///
/// # Errors
/// 403 with "exceeded quota: NAME".
pub async fn check_stream_quota(store: &Store, namespace: &str, name: &str) -> Result<(), StatusError> {
    let quotas = list(store, namespace, "resourcequotas").await?;
    let limited: Vec<(&str, f64, &str)> = quotas
        .iter()
        .filter_map(|quota| {
            let written = quota["spec"]["hard"][STREAM_QUOTA].as_str()?;
            Some((name_of(quota), quantity(written)?, written))
        })
        .collect();
    if limited.is_empty() {
        return Ok(());
    }
    let streams = store.list(Place::streams(namespace), &Query::default()).await?;
    let used = streams["items"].as_array().map_or(0, Vec::len);
    let would_be = f64::from(u32::try_from(used + 1).unwrap_or(u32::MAX));
    match limited.into_iter().find(|(_, hard, _)| would_be > *hard) {
        Some((quota, _, written)) => {
            let why = format!(
                "exceeded quota: {quota}, requested: {STREAM_QUOTA}=1, used: {STREAM_QUOTA}={used}, \
                 limited: {STREAM_QUOTA}={written}"
            );
            Err(StatusError::forbidden("imagestreams", name, &why))
        }
        None => Ok(()),
    }
}

async fn list(store: &Store, namespace: &str, resource: &str) -> Result<Vec<Value>, StatusError> {
    let path = format!("/api/v1/namespaces/{}/{resource}", percent_encode(namespace));
    let mut list = store.call(Method::GET, &path, &Query::at_hand(), None).await?;
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

/// A Kubernetes quantity as a number.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    SUFFIXES.iter().find_map(|(suffix, factor)| Some(text.strip_suffix(suffix)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("50", Some(50.0))]
    #[case("1Gi", Some(1_073_741_824.0))]
    #[case("1500m", Some(1.5))]
    #[case("1e3", Some(1000.0))]
    #[case("2k", Some(2000.0))]
    #[case("many", None)]
    fn quantities_are_read(#[case] text: &str, #[case] number: Option<f64>) {
        assert_eq!(quantity(text), number);
    }

    #[test]
    fn the_strictest_limit_counts_and_old_excess_may_stay() {
        let limit = |max: &str| json!({"type": "openshift.io/ImageStream", "max": {"openshift.io/image-tags": max}});
        let limits = Limits(vec![limit("5"), limit("1")]);
        let two = json!({"metadata": {"name": "app"}, "spec": {"tags": [{"name": "a"}, {"name": "b"}]}});
        let refused = limits.check_stream(None, &two).expect_err("too many tags");
        assert!(refused.message.contains("exceeds the maximum limit"), "{refused}");
        assert!(limits.check_stream(Some(&two), &two).is_ok());
    }
}
