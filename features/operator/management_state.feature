@operator @disruptive
Feature: The management state of the registry
  OpenShift 4.2 registry documentation, section 2.1; 4.3 to 4.6, section 2.3.

  @OPR-MGMT-MANAGED @kind-smoke
  Scenario: Managed applies a changed configuration
    Given the registry is Managed with emptyDir storage
    When the administrator sets "logLevel" of the registry configuration to "Debug"
    Then the operator rolls out a new generation of the registry

  @OPR-MGMT-UNMANAGED
  Scenario: Unmanaged ignores a changed configuration
    Given the registry is Managed with emptyDir storage
    And the administrator has set managementState to "Unmanaged"
    When the administrator sets "readOnly" of the registry configuration to "true"
    And the administrator sets "replicas" of the registry configuration to "2"
    Then the Deployment of the registry does not change
    And the registry still answers

  @OPR-MGMT-REMOVED-REGISTRY @kind-smoke
  Scenario: Removed takes the registry away
    Given the registry is Managed with emptyDir storage
    And the default route is exposed
    When the administrator sets managementState to "Removed"
    Then Deployment, Service and route of the registry are gone
    And no registry pod runs
    And the ClusterOperator reports Available=True with reason "Removed"
