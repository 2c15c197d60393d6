//! Names that OpenShift fixes and every component must spell alike: namespaces, objects, annotations, labels, images.
//! Source unless said otherwise: operator source pkg/defaults/defaults.go (main).

/// Namespace of operator, registry, node CA and pruner.
pub const REGISTRY_NAMESPACE: &str = "openshift-image-registry";
/// Namespace of what administrators give to operators: trusted CAs, the pull secret.
pub const CONFIG_NAMESPACE: &str = "openshift-config";
/// Namespace of what operators give to each other.
pub const CONFIG_MANAGED_NAMESPACE: &str = "openshift-config-managed";
/// Namespace of the node agent.
pub const MACHINE_CONFIG_NAMESPACE: &str = "openshift-machine-config-operator";
/// Namespace of shared image streams.
pub const OPENSHIFT_NAMESPACE: &str = "openshift";
/// Namespace of the monitoring stack, whose ServiceAccount reads the registry's metrics.
pub const MONITORING_NAMESPACE: &str = "openshift-monitoring";
/// Namespace of the service CA.
pub const SERVICE_CA_NAMESPACE: &str = "openshift-service-ca";
/// Namespace of the default router.
pub const INGRESS_NAMESPACE: &str = "openshift-ingress";

/// Name of every singleton configuration object but [`CLUSTER_VERSION`].
pub const CLUSTER: &str = "cluster";
/// Name of the ClusterVersion object.
pub const CLUSTER_VERSION: &str = "version";
/// Name of the operator's ClusterOperator.
pub const CLUSTER_OPERATOR: &str = "image-registry";

/// The operator's Deployment.
pub const OPERATOR_DEPLOYMENT: &str = "cluster-image-registry-operator";
/// Deployment, Service, PodDisruptionBudget of the registry.
pub const REGISTRY: &str = "image-registry";
/// ServiceAccount of the registry's pods.
pub const REGISTRY_SERVICE_ACCOUNT: &str = "registry";
/// Label that selects the registry's pods; its value is [`REGISTRY_LABEL_VALUE`].
pub const REGISTRY_LABEL: &str = "docker-registry";
/// Value of [`REGISTRY_LABEL`].
pub const REGISTRY_LABEL_VALUE: &str = "default";
/// Port of the registry's container and Service.
pub const REGISTRY_PORT: u16 = 5000;
/// The registry as pods and nodes address it, with its port.
pub const REGISTRY_INTERNAL_HOST: &str = "image-registry.openshift-image-registry.svc:5000";
/// The route of `spec.defaultRoute`.
pub const DEFAULT_ROUTE: &str = "default-route";
/// The claim the operator makes when `spec.storage.pvc.claim` is blank.
pub const DEFAULT_CLAIM: &str = "image-registry-storage";
/// Lease of the operator's leader.
pub const OPERATOR_LEASE: &str = "openshift-master-controllers";
/// DaemonSet and ServiceAccount that bring trusted CAs onto nodes.
pub const NODE_CA: &str = "node-ca";
/// CronJob of the image pruner.
pub const PRUNER_CRON_JOB: &str = "image-pruner";
/// ServiceAccount of the image pruner.
pub const PRUNER_SERVICE_ACCOUNT: &str = "pruner";
/// DaemonSet of the node agent.
pub const MACHINE_CONFIG_DAEMON: &str = "machine-config-daemon";

/// Secret in which the administrator gives storage credentials.
pub const USER_STORAGE_SECRET: &str = "image-registry-private-configuration-user";
/// Secret the operator makes for the registry's pods.
pub const STORAGE_SECRET: &str = "image-registry-private-configuration";
/// Secret with the cluster's own cloud credentials.
pub const MINTED_STORAGE_SECRET: &str = "installer-cloud-credentials";
/// Secret with the registry's serving certificate, made by the service CA.
pub const REGISTRY_TLS_SECRET: &str = "image-registry-tls";
/// Secret with the operator's serving certificate, made by the service CA.
pub const OPERATOR_TLS_SECRET: &str = "image-registry-operator-tls";
/// The operator's copy of [`PULL_SECRET`] for the registry.
pub const INSTALLATION_PULL_SECRETS: &str = "installation-pull-secrets";
/// The cluster's pull secret, in [`CONFIG_NAMESPACE`].
pub const PULL_SECRET: &str = "pull-secret";
/// ConfigMap with all CAs the registry and the nodes trust.
pub const CERTIFICATES_CONFIG_MAP: &str = "image-registry-certificates";
/// ConfigMap into which the service CA puts its bundle.
pub const SERVICE_CA_CONFIG_MAP: &str = "serviceca";
/// ConfigMap with the cluster-wide proxy's CA bundle.
pub const TRUSTED_CA_CONFIG_MAP: &str = "trusted-ca";
/// ConfigMap in [`CONFIG_MANAGED_NAMESPACE`] with the registry's own CA entries.
pub const IMAGE_REGISTRY_CA_CONFIG_MAP: &str = "image-registry-ca";

/// ClusterRole of the registry's ServiceAccount.
pub const REGISTRY_CLUSTER_ROLE: &str = "system:registry";
/// ClusterRoleBinding of [`REGISTRY_CLUSTER_ROLE`].
pub const REGISTRY_CLUSTER_ROLE_BINDING: &str = "registry-registry-role";
/// ClusterRole of the pruner's ServiceAccount.
pub const PRUNER_CLUSTER_ROLE: &str = "system:image-pruner";
/// ClusterRoleBinding of [`PRUNER_CLUSTER_ROLE`].
pub const PRUNER_CLUSTER_ROLE_BINDING: &str = "openshift-image-registry-pruner";

/// Finalizer on the operator's resource.
pub const FINALIZER: &str = "imageregistry.operator.openshift.io/finalizer";
/// Annotation with the checksum of what the operator last applied.
pub const CHECKSUM_ANNOTATION: &str = "imageregistry.operator.openshift.io/checksum";
/// Annotation on pods with the checksum over every ConfigMap and Secret they use.
pub const DEPENDENCIES_CHECKSUM_ANNOTATION: &str = "imageregistry.operator.openshift.io/dependencies-checksum";
/// Annotation with the release that made an object.
pub const VERSION_ANNOTATION: &str = "release.openshift.io/version";
/// Annotation, with value `true`, on claims and routes the operator owns.
pub const OWNED_ANNOTATION: &str = "imageregistry.openshift.io";
/// Annotation on a namespace: its range of supplemental groups, `first/count`.
pub const SUPPLEMENTAL_GROUPS_ANNOTATION: &str = "openshift.io/sa.scc.supplemental-groups";
/// Annotation on a namespace: its range of user ids, `first/count`.
pub const UID_RANGE_ANNOTATION: &str = "openshift.io/sa.scc.uid-range";
/// Annotation on a namespace: its SELinux level.
pub const MCS_ANNOTATION: &str = "openshift.io/sa.scc.mcs";
/// Annotation on a Service: the Secret that is to hold its serving certificate.
pub const SERVING_CERT_ANNOTATION: &str = "service.beta.openshift.io/serving-cert-secret-name";
/// The older spelling of [`SERVING_CERT_ANNOTATION`], which the operator still uses.
pub const SERVING_CERT_ANNOTATION_ALPHA: &str = "service.alpha.openshift.io/serving-cert-secret-name";
/// Annotation, with value `true`, on a ConfigMap that wants the service CA's bundle.
pub const INJECT_CA_BUNDLE_ANNOTATION: &str = "service.beta.openshift.io/inject-cabundle";
/// The older spelling of [`INJECT_CA_BUNDLE_ANNOTATION`].
pub const INJECT_CA_BUNDLE_ANNOTATION_ALPHA: &str = "service.alpha.openshift.io/inject-cabundle";
/// Key under which the service CA's bundle is injected.
pub const SERVICE_CA_KEY: &str = "service-ca.crt";
/// Annotation on images the internal registry holds.
pub const MANAGED_IMAGE_ANNOTATION: &str = "openshift.io/image.managed";

/// Image name of the reference operator.
pub const OPERATOR_IMAGE: &str = "registry-conformance.local/operator";
/// Image name of the reference registry.
pub const REGISTRY_IMAGE: &str = "registry-conformance.local/registry";
/// Image name of the reference node agent.
pub const NODE_AGENT_IMAGE: &str = "registry-conformance.local/node-agent";
/// Image name of the program that brings CAs onto nodes.
pub const NODE_CA_IMAGE: &str = "registry-conformance.local/node-ca";
/// Image name of the command-line client, which is also the pruner.
pub const CLI_IMAGE: &str = "registry-conformance.local/cli";
