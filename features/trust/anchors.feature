@trust @disruptive
Feature: Additional trust of the registry
  OpenShift 4.2 registry documentation, section 2.3.

  @TRU-CA-POD-ANCHORS @kind-smoke
  Scenario: The registry pod lists the trust anchors
    Given the registry is Managed with emptyDir storage
    And the administrator trusts an authority for the external registry "registry.example.com"
    When the registry has rolled out
    Then the trust anchors inside the registry pod list
      | registry.example.com                                              |
      | image-registry.openshift-image-registry.svc..5000                 |
      | image-registry.openshift-image-registry.svc.cluster.local..5000   |
    When the administrator removes the authority for "registry.example.com"
    And the registry has rolled out
    Then the trust anchors inside the registry pod do not list "registry.example.com"
