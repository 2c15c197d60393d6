@metrics @needs-managed-registry
Feature: Metrics of the registry
  OpenShift 4.2 registry documentation, section 5.4; 4.3 and 4.4, section 5.5; 4.6, section 4.5.

  Background:
    Given the registry is Managed
    And a user without any role

  @MET-CLUSTERROLE @needs-free-role-name
  Scenario: The prometheus-scraper role opens the metrics to a user
    Then the user cannot read the metrics
    When the administrator runs
      """
      cat <<EOF | oc create -f -
      apiVersion: rbac.authorization.k8s.io/v1
      kind: ClusterRole
      metadata:
        name: prometheus-scraper
      rules:
      - apiGroups:
        - image.openshift.io
        resources:
        - registry/metrics
        verbs:
        - get
      EOF
      oc adm policy add-cluster-role-to-user prometheus-scraper <username>
      """
    Then the command succeeds
    And the user can read the metrics
    When the role is taken from the user again
    Then the user cannot read the metrics

  @MET-BUILD-INFO @kind-smoke
  Scenario: The build is described by a gauge that is always 1
    When a user with the prometheus-scraper role reads the metrics
    Then "imageregistry_build_info" is a gauge with one series of value 1
    And its labels are "major, minor, gitCommit, gitVersion"

  @MET-REQUEST-DURATION
  Scenario: Request latencies are summaries by method
    Given an image "measured" in a project
    When a user with the prometheus-scraper role reads the metrics
    Then "imageregistry_http_request_duration_seconds" is a summary with quantiles "0.5, 0.9, 0.99" for method "get"
    And its sum grows with another request
