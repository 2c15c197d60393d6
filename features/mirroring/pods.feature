@mirroring
Feature: Pods whose images are mirrored
  OpenShift 4.16 images documentation, sections 9.3 and 9.3.1. A pod names its image by the source; where the node fetches
  it from is up to the node.

  @MIR-REDIRECT @MIR-CR-SOURCE-MIRRORS @needs-kubelet @disruptive @kind-smoke
  Scenario: A pod's image is pulled from the mirror
    Given an image "registry.example.com/app" in another registry
    And the mirror "mirror.example.com/copies" with the same image
    And the administrator trusts an authority for the external registry "mirror.example.com"
    When the administrator mirrors "registry.example.com" by digest to "mirror.example.com/copies" with "AllowContactingSource"
    Then every node trusts the registry "mirror.example.com"
    When a pod of every node asks for the image "registry.example.com/app" by digest
    Then every node has the image "registry.example.com/app" under the name of its source
    And the mirror "mirror.example.com" delivered the image "registry.example.com/app" to every node
    And the source "registry.example.com" was never asked
