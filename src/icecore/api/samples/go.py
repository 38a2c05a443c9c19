"""Go: github.com/alibabacloud-go/polardb-20170801, and darabonba-openapi for what it does not model.

Laid out as gofmt would.
"""

from __future__ import annotations

from icecore.api.samples.asked import Asked, Value, fill, grouped, written
from icecore.api.samples.literals import go as quoted

_CONFIG = """\
new(openapiutil.Config).
		SetAccessKeyId(os.Getenv("ALIBABA_CLOUD_ACCESS_KEY_ID")).
		SetAccessKeySecret(os.Getenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET")).
		SetProtocol(«protocol»).
		SetEndpoint(«host»)"""

_TYPED = """\
// go mod init sample && go get github.com/alibabacloud-go/polardb-20170801/v8@v8.7.0 && go mod tidy
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	openapiutil "github.com/alibabacloud-go/darabonba-openapi/v2/utils"
	polardb "github.com/alibabacloud-go/polardb-20170801/v8/client"
)

func main() {
	config := «config»
	client, err := polardb.NewClient(config)
	if err != nil {
		log.Fatal(err)
	}
	request := new(polardb.«action»Request)«setters»
	answer, err := client.«action»(request)
	if err != nil {
		log.Fatal(err)
	}
	text, err := json.MarshalIndent(answer.GetBody(), "", "  ")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}
"""

_GENERIC = """\
// go mod init sample && go get github.com/alibabacloud-go/darabonba-openapi/v2@v2.2.4 && go mod tidy
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	openapiutil "github.com/alibabacloud-go/darabonba-openapi/v2/utils"
	"github.com/alibabacloud-go/tea/dara"
)

func main() {
	config := «config»
	client, err := openapi.NewClient(config)
	if err != nil {
		log.Fatal(err)
	}
	action := new(openapiutil.Params).
		SetAction(«name»).
		SetVersion(«version»).
		SetProtocol(«protocol»).
		SetMethod("POST").
		SetAuthType("AK").
		SetStyle("RPC").
		SetPathname("/").
		SetReqBodyType("formData").
		SetBodyType("json")
	query := map[string]*string«query»
	answer, err := client.CallApi(action, new(openapiutil.OpenApiRequest).SetQuery(query), new(dara.RuntimeOptions))
	if err != nil {
		log.Fatal(err)
	}
	text, err := json.MarshalIndent(answer["body"], "", "  ")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}
"""


def sample(asked: Asked) -> str:
    protocol = quoted(asked.protocol)
    config = fill(_CONFIG, protocol=protocol, host=quoted(asked.host))
    if asked.typed:
        setters = (f"Set{p.name}({_argument(asked, p.name, value)})" for p, value in asked.arguments)
        return fill(
            _TYPED, config=config, action=asked.action, setters="".join(f".\n\t\t{setter}" for setter in setters)
        )
    return fill(
        _GENERIC,
        config=config,
        name=quoted(asked.action),
        version=quoted(asked.version),
        protocol=protocol,
        query=grouped("{", _aligned(asked), "}", "\t", "\t"),
    )


def _aligned(asked: Asked) -> list[str]:
    """Map entries with their values in one column: names are short, so gofmt aligns them all."""
    width = max((len(quoted(name)) for name, _ in asked.pairs), default=0) + 1
    return [f"{quoted(name) + ':':<{width}} dara.String({quoted(value)})" for name, value in asked.pairs]


def _argument(asked: Asked, name: str, value: Value) -> str:
    if not isinstance(value, list):
        return written(value, quoted)
    element = f"polardb.{asked.action}Request{name}"
    elements = [f"new({element})" + "".join(f".Set{n}({quoted(v)})" for n, v in one.items()) for one in value]
    return grouped(f"[]*{element}{{", elements, "}", "\t\t", "\t")
