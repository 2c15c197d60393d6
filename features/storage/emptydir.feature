@storage @emptydir @disruptive
Feature: Registry storage in an empty directory, for clusters that are not in production
  OpenShift 4.3 registry documentation, sections 3.3.5 and 3.4.4; 4.4 and 4.6, sections 3.4.5 and 3.5.4.

  @STO-EMP-PATCH @kind-smoke
  Scenario: The documented patch gives the registry an empty directory
    Given the operator has bootstrapped itself as Removed
    And the administrator has set managementState to "Managed"
    When the administrator runs
      """
      oc patch configs.imageregistry.operator.openshift.io cluster --type merge --patch '{"spec":{"storage":{"emptyDir":{}}}}'
      """
    Then the command succeeds
    And the registry's volume is an emptyDir
    And the ClusterOperator reports Available=True, Progressing=False, Degraded=False
    And an image can be pushed and pulled

  @STO-EMP-PATCH
  Scenario: A patch that lacks its last brace changes nothing
    Given the operator has bootstrapped itself as Removed
    When the administrator runs
      """
      oc patch configs.imageregistry.operator.openshift.io cluster --type merge --patch '{"spec":{"storage":{"emptyDir":{}}}'
      """
    Then the command fails
    And the registry configuration has no storage

  @STO-EMP-DATALOSS
  Scenario: Images are lost when the registry restarts
    Given the registry is Managed with emptyDir storage
    And an image "lost" in a project
    When the registry pod is replaced
    Then a layer of the image "lost" is not found
    And pulling the image "lost" fails
    And the image stream tag "lost" still exists
