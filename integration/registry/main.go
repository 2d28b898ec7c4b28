// A registry with the referrers API, for the tests: go-containerregistry's, with TLS and basic authentication around it. As it is, it
// departs from the distribution specification (no OCI-Subject header, the config's media type as artifactType, no annotations in lists, no
// filter); with -strict what it answers is put right, and both kinds are tested.
package main

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
)

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	ArtifactType string            `json:"artifactType"`
	Config       descriptor        `json:"config"`
	Subject      *descriptor       `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// strict makes the answers of inner what the specification wants.
func strict(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
			body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			var m manifest
			if json.Unmarshal(body, &m) == nil && m.Subject != nil {
				w.Header().Set("OCI-Subject", m.Subject.Digest)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			inner.ServeHTTP(w, r)
		case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/referrers/"):
			referrers(inner, w, r)
		default:
			inner.ServeHTTP(w, r)
		}
	})
}

func referrers(inner http.Handler, w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	inner.ServeHTTP(answer, r)
	var list struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	if answer.Code != http.StatusOK || json.Unmarshal(answer.Body.Bytes(), &list) != nil {
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
		return
	}
	wanted := r.URL.Query().Get("artifactType")
	kept := []descriptor{}
	for _, d := range list.Manifests {
		get := httptest.NewRequest(http.MethodGet, strings.Split(r.URL.Path, "/referrers/")[0]+"/manifests/"+d.Digest, nil)
		found := httptest.NewRecorder()
		inner.ServeHTTP(found, get)
		var m manifest
		if json.Unmarshal(found.Body.Bytes(), &m) != nil {
			continue
		}
		d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
		if d.ArtifactType == "" {
			d.ArtifactType = m.Config.MediaType
		}
		if wanted == "" || d.ArtifactType == wanted {
			kept = append(kept, d)
		}
	}
	list.Manifests = kept
	w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	_ = json.NewEncoder(w).Encode(list)
}

func authenticated(user, password string, inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, secret, _ := r.BasicAuth()
		same := subtle.ConstantTimeCompare([]byte(name+":"+secret), []byte(user+":"+password))
		if same != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

func main() {
	address := flag.String("address", "127.0.0.1:0", "where to listen")
	dir := flag.String("dir", "", "where blobs go")
	isStrict := flag.Bool("strict", false, "follow the specification")
	user := flag.String("user", "", "the only user")
	password := flag.String("password", "", "its password")
	certificate := flag.String("certificate", "", "certificate, for TLS")
	key := flag.String("key", "", "its key")
	flag.Parse()
	handler := registry.New(
		registry.WithReferrersSupport(true),
		registry.WithBlobHandler(registry.NewDiskBlobHandler(*dir)),
		registry.Logger(log.New(io.Discard, "", 0)),
	)
	if *isStrict {
		handler = strict(handler)
	}
	if *user != "" {
		handler = authenticated(*user, *password, handler)
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	if *certificate != "" {
		log.Fatal(server.ServeTLS(listener, *certificate, *key))
	}
	log.Fatal(server.Serve(listener))
}
