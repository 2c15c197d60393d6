@operator
Feature: What the operator says about the registry
  OpenShift 4.2 registry documentation, sections 2 and 3.3.1; 4.3 to 4.6, sections 2.1, 3.3.4 and 3.4.3.

  @OPR-CLUSTEROPERATOR-STATUS @needs-managed-registry @kind-smoke
  Scenario: The cluster operator shows a working registry
    Given the registry is Managed
    When the ClusterOperator has followed
    And the administrator runs
      """
      oc get clusteroperator image-registry
      """
    Then the command prints a table with
      | NAME           | AVAILABLE | PROGRESSING | DEGRADED |
      | image-registry | True      | False       | False    |

  @OPR-CLUSTEROPERATOR-STATUS @disruptive
  Scenario: The cluster operator shows a registry that lacks its storage
    Given the registry is Managed without any storage
    When the ClusterOperator has settled
    And the administrator runs
      """
      oc get clusteroperator image-registry
      """
    Then the command prints a table with
      | NAME           | AVAILABLE | DEGRADED |
      | image-registry | False     | True     |

  @OPR-INCOMPLETE-STATUS @disruptive
  Scenario: An incomplete configuration names what is missing
    Given the operator has bootstrapped itself as Removed
    When the administrator sets managementState to "Managed"
    Then the status of the registry configuration says that the storage is not configured
    And the ClusterOperator says the same
