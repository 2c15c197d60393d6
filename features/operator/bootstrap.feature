@operator @disruptive
Feature: What the operator does before anybody configures it
  OpenShift 4.3 to 4.6 registry documentation, sections 2.1, 2.2.1 and 3.3 to 3.5.

  @OPR-REMOVED-BOOTSTRAP
  Scenario: Without shareable object storage the operator bootstraps itself as Removed
    Given a cluster whose platform offers no shareable object storage
    When the Image Registry Operator initialises its components
    Then the managementState of the registry configuration is "Removed"
    And there is no Deployment of the registry
    And the ClusterOperator reports Available=True, Progressing=False, Degraded=False

  @OPR-REMOVED-SWITCH
  Scenario: The administrator starts the registry by switching Removed to Managed
    Given the operator has bootstrapped itself as Removed
    And storage is configured while the registry is Removed
    Then no registry pod runs
    When the administrator runs
      """
      oc patch configs.imageregistry.operator.openshift.io cluster --type merge --patch '{"spec":{"managementState":"Managed"}}'
      """
    Then the command succeeds
    And a registry pod becomes ready

  @OPR-PATCH-NOTFOUND
  Scenario: Patching before the operator has initialised its components fails with NotFound
    Given the operator has not initialised its components yet
    When the administrator runs
      """
      oc patch configs.imageregistry.operator.openshift.io cluster --type merge --patch '{"spec":{"storage":{"emptyDir":{}}}}'
      """
    Then the command fails and prints
      """
      Error from server (NotFound): configs.imageregistry.operator.openshift.io "cluster" not found
      """
    When the Image Registry Operator initialises its components
    And the administrator runs the same command again
    Then the command succeeds

  @OPR-SINGLE-INSTANCE
  Scenario: The operator installs one registry, whatever other configurations exist
    Given the registry is Managed with emptyDir storage
    When the administrator creates a second registry configuration named "other"
    Then there is still exactly one Deployment and one Service of the registry
