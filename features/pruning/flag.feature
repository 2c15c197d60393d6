@pruning @disruptive @needs-own-images
Feature: What the image pruner prunes
  OpenShift 4.4 and 4.6 registry documentation, section 2.1.

  @PRN-FLAG-MANAGED @kind-smoke
  Scenario: While Managed the pruner also prunes the registry
    Given the registry is Managed with emptyDir storage
    Then the image pruner is started with "--prune-registry=true"
    Given the pruner keeps no image for its age
    And an image "unused" in a project whose image stream is then deleted
    When the image pruner runs
    Then the image "unused" is gone from the image API
    And the blobs of the image "unused" are gone from the registry

  @PRN-FLAG-REMOVED @backend-s3
  Scenario: While Removed the pruner prunes only metadata
    Given the registry is Managed with S3 storage
    And the pruner keeps no image for its age
    And an image "unused" in a project whose image stream is then deleted
    When the administrator sets managementState to "Removed"
    Then the image pruner is started with "--prune-registry=false"
    When the image pruner runs
    Then the image "unused" is gone from the image API
    And the bucket holds every blob of the image "unused"
