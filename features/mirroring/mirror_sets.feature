@mirroring @needs-node-files
Feature: Mirroring of image registries
  OpenShift 4.16 images documentation, sections 9.3 and 9.3.1.

  @MIR-CONF-EXAMPLE @disruptive @needs-no-mirrors @kind-smoke
  Scenario: The example object pairs every source with its mirrors
    When the administrator creates the documented ImageDigestMirrorSet "ubi9repo"
    Then every node pulls by digest from
      | source                                    | mirror                                  |
      | registry.access.redhat.com/ubi9/ubi-minimal | example.io/example/ubi-minimal        |
      | registry.access.redhat.com/ubi9/ubi-minimal | example.com/example/ubi-minimal       |
      | registry.example.com/redhat               | mirror.example.com/redhat               |
      | registry.example.com                      | mirror.example.com                      |
      | registry.example.com/example/myimage      | mirror.example.net/image                |
      | registry.example.com/example              | mirror.example.net                      |
      | registry.example.com                      | mirror.example.net/registry-example-com |

  @MIR-NODE-CONF @needs-two-nodes
  Scenario: The mirrors reach every node
    When the administrator mirrors "registry.example.com/team" by digest to "mirror.example.com/team" with "AllowContactingSource"
    Then every node has the source "registry.example.com/team" and the mirror "mirror.example.com/team"
    And all nodes have equivalent contents

  @MIR-REDIRECT
  Scenario: A pull from the source is answered by the mirror
    Given an image "registry.example.com/team/app" in another registry
    And the mirror "mirror.example.com/team" with the same image
    When the administrator mirrors "registry.example.com/team" by digest to "mirror.example.com/team" with "AllowContactingSource"
    Then every node pulls the image "registry.example.com/team/app" by digest from "mirror.example.com"
    And the source "registry.example.com" was never asked

  @MIR-POLICY-NEVER
  Scenario: NeverContactSource keeps a node from the source
    Given an image "registry.example.com/team/app" in another registry
    And the mirror "mirror.example.com/team" that is down
    When the administrator mirrors "registry.example.com/team" by digest to "mirror.example.com/team" with "NeverContactSource"
    Then every node fails to pull the image "registry.example.com/team/app" by digest because the registry is blocked
    And the source "registry.example.com" was never asked

  @MIR-POLICY-NEVER
  Scenario: With NeverContactSource a working mirror serves the pull
    Given an image "registry.example.com/team/app" in another registry
    And the mirror "mirror.example.com/team" with the same image
    When the administrator mirrors "registry.example.com/team" by digest to "mirror.example.com/team" with "NeverContactSource"
    Then every node pulls the image "registry.example.com/team/app" by digest from "mirror.example.com"
    And the source "registry.example.com" was never asked
