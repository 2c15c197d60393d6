@operator @disruptive
Feature: Parameters of the registry configuration
  OpenShift 4.2 registry documentation, section 2.1; 4.3 to 4.6, section 2.3.

  @OPR-PARAM-READONLY
  Scenario: readOnly refuses pushes and serves pulls
    Given the registry is Managed with emptyDir storage
    And an image "before" in a project
    When the administrator sets "readOnly" of the registry configuration to "true"
    And the registry has rolled out
    Then pushing an image "after" is refused as not allowed
    And no image stream tag "after" exists
    When the administrator sets "readOnly" of the registry configuration to "false"
    And the registry has rolled out
    Then pushing an image "after" succeeds

  @OPR-PARAM-READONLY @backend-s3
  Scenario: readOnly leaves stored images readable
    Given the registry is Managed with S3 storage
    And an image "kept" in a project
    When the administrator sets "readOnly" of the registry configuration to "true"
    And the registry has rolled out
    Then pulling the image "kept" succeeds

  @OPR-PARAM-REPLICAS @backend-s3 @kind-smoke
  Scenario: replicas sets the number of registry pods
    Given the registry is Managed with S3 storage
    When the administrator sets "replicas" of the registry configuration to "2"
    Then 2 registry pods become ready
    When the administrator sets "replicas" of the registry configuration to "1"
    Then 1 registry pods become ready
