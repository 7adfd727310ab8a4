package ssmtest

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The page size of DescribeInstanceInformation, by its documentation.
const (
	pageDefault = 10
	pageMin     = 5
	pageMax     = 50
)

type instanceInformation struct {
	InstanceID       string `json:"InstanceId"`
	PingStatus       string
	LastPingDateTime float64
	AgentVersion     string
	IsLatestVersion  bool
	PlatformType     string
	PlatformName     string `json:",omitempty"`
	ResourceType     string
	IPAddress        string
	ComputerName     string
	IamRole          string `json:",omitempty"`
	Name             string `json:",omitempty"`
}

func (n Node) information() instanceInformation {
	info := instanceInformation{
		InstanceID:       n.InstanceID,
		PingStatus:       n.PingStatus,
		LastPingDateTime: float64(time.Now().UnixMilli()) / 1000,
		AgentVersion:     n.AgentVersion,
		PlatformType:     n.PlatformType,
		PlatformName:     n.PlatformName,
		ResourceType:     n.resourceType(),
		IPAddress:        n.IPAddress,
		ComputerName:     n.ComputerName,
		IamRole:          n.IamRole,
	}
	if info.ResourceType == "ManagedInstance" {
		info.Name = n.Tags["Name"] // an EC2 instance's is only in its tags
	}
	return info
}

type nodeFilter struct {
	Key    string
	Values []string
}

func (s *Server) callDescribeInstanceInformation(_ *Credentials, body []byte) (any, *CallError) {
	var in struct {
		Filters                       []nodeFilter
		InstanceInformationFilterList []struct {
			Key      string   `json:"key"`
			ValueSet []string `json:"valueSet"`
		}
		MaxResults *int
		NextToken  string
	}
	if err := decodeInput(body, &in); err != nil {
		return nil, err
	}
	if err := s.permit("ssm:DescribeInstanceInformation", "arn:aws:ssm:"+s.Region()+":"+accountID+":*"); err != nil {
		return nil, err
	}
	if len(in.Filters) > 0 && len(in.InstanceInformationFilterList) > 0 {
		return nil, &CallError{Code: "ValidationException", Message: "Filters and InstanceInformationFilterList can't be used together."}
	}
	if mixed := slices.CompactFunc(slices.Clone(in.Filters), sameKind); len(mixed) > 1 {
		return nil, &CallError{Code: "ValidationException", Message: "Tag filters can't be combined with other filter types."}
	}
	for _, f := range in.InstanceInformationFilterList { // the older form
		in.Filters = append(in.Filters, nodeFilter{f.Key, f.ValueSet})
	}
	matches := s.nodes()
	for _, f := range in.Filters {
		predicate, err := f.predicate()
		if err != nil {
			return nil, err
		}
		matches = slices.DeleteFunc(slices.Clone(matches), func(n Node) bool { return !predicate(n) })
	}
	size := pageDefault
	if in.MaxResults != nil {
		if size = *in.MaxResults; size < pageMin || size > pageMax {
			return nil, &CallError{Code: "ValidationException", Message: "1 validation error detected: Value '" + strconv.Itoa(size) + "' at 'maxResults' failed to satisfy constraint: Member must have value greater than or equal to 5 and less than or equal to 50"}
		}
	}
	start, err := parsePageToken(in.NextToken, len(matches))
	if err != nil {
		return nil, err
	}
	end := min(start+size, len(matches))
	var out struct {
		InstanceInformationList []instanceInformation
		NextToken               string `json:",omitempty"`
	}
	out.InstanceInformationList = []instanceInformation{}
	for _, n := range matches[start:end] {
		out.InstanceInformationList = append(out.InstanceInformationList, n.information())
	}
	if end < len(matches) {
		out.NextToken = base64.StdEncoding.EncodeToString([]byte("page " + strconv.Itoa(end)))
	}
	return out, nil
}

func (f nodeFilter) byTag() bool { return f.Key == "tag-key" || strings.HasPrefix(f.Key, "tag:") }

func sameKind(a, b nodeFilter) bool { return a.byTag() == b.byTag() }

func parsePageToken(token string, limit int) (int, *CallError) {
	if token == "" {
		return 0, nil
	}
	raw, err := base64.StdEncoding.DecodeString(token)
	number, ok := strings.CutPrefix(string(raw), "page ")
	n, convErr := strconv.Atoi(number)
	if err != nil || !ok || convErr != nil || n < 0 || n > limit {
		return 0, &CallError{Code: "InvalidNextToken", Message: "The specified token isn't valid."}
	}
	return n, nil
}

// predicate is the filter, by the keys that the service documents for
// InstanceInformationStringFilter.
func (f nodeFilter) predicate() (func(Node) bool, *CallError) {
	if len(f.Values) == 0 || slices.Contains(f.Values, "") {
		return nil, &CallError{Code: "InvalidInstanceInformationFilterValue", Message: "The specified filter value isn't valid."}
	}
	has := func(value string) bool { return slices.Contains(f.Values, value) }
	if tag, ok := strings.CutPrefix(f.Key, "tag:"); ok {
		return func(n Node) bool {
			value, tagged := n.Tags[tag]
			return tagged && has(value)
		}, nil
	}
	switch f.Key {
	case "InstanceIds":
		return func(n Node) bool { return has(n.InstanceID) }, nil
	case "PingStatus":
		return func(n Node) bool { return has(n.PingStatus) }, nil
	case "ResourceType":
		return func(n Node) bool { return has(n.resourceType()) }, nil
	case "PlatformTypes", "PlatformType":
		return func(n Node) bool { return has(n.PlatformType) }, nil
	case "AgentVersion":
		return func(n Node) bool { return has(n.AgentVersion) }, nil
	case "IamRole":
		return func(n Node) bool { return has(n.IamRole) }, nil
	case "ActivationIds", "AssociationStatus", "SourceIds", "SourceTypes":
		return func(Node) bool { return false }, nil // no node here has any
	case "tag-key":
		return func(n Node) bool {
			return slices.ContainsFunc(f.Values, func(tag string) bool {
				_, tagged := n.Tags[tag]
				return tagged
			})
		}, nil
	}
	return nil, &CallError{Code: "InvalidFilterKey", Message: "The specified key isn't valid."}
}
